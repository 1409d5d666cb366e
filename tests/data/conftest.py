import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import dmaxlit

FAKE = Path(__file__).with_name("fake_model.py")


@pytest.fixture(scope="session")
def fake_script():
    return FAKE


@pytest.fixture(scope="session")
def run_script():
    """Run a script in a process of its own, with the package under test."""

    def run(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(Path(dmaxlit.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, env=environment, timeout=240, capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="session")
def fake_module():
    return runpy.run_path(str(FAKE), run_name="fake_model")["FakeModule"]
