import sys

import pytest
import torch

from dmaxlit.bench import command, output_folder
from dmaxlit.cli import main


@pytest.fixture(autouse=True, scope="session")
def unchanged_checkout():
    """Let benchmarks see one version of the code, also if a file is saved or committed while the tests run."""
    with pytest.MonkeyPatch.context() as patch:
        versions = output_folder.software()
        patch.setattr(output_folder, "software", lambda: dict(versions))
        yield


@pytest.fixture
def fits_in_process(monkeypatch):
    """Let benchmarks train in this process: a new one takes seconds to import what it needs."""
    monkeypatch.setattr(command, "run_dmaxlit", lambda *arguments, environment: main(arguments))
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning uses what jsonargparse has renamed


@pytest.fixture
def replace_python(tmp_path, monkeypatch):
    """Return a function that lets a shell script, given as text, run instead of Python in new processes."""

    def replace(text):
        script = tmp_path / "python"
        script.write_text(f"#!/bin/sh\n{text}")
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))

    return replace


@pytest.fixture
def two_threads(monkeypatch):
    """Let torch say that it uses two threads, or as many as it is told to."""
    numbers = [2]
    monkeypatch.setattr(torch, "get_num_threads", lambda: numbers[-1])
    monkeypatch.setattr(torch, "set_num_threads", numbers.append)
