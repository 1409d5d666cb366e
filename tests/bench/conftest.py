import pytest

from dmaxlit.bench import command
from dmaxlit.cli import main


@pytest.fixture
def fits_in_process(monkeypatch):
    """Let benchmarks train in this process: a new one takes seconds to import what it needs."""
    monkeypatch.setattr(command, "run_dmaxlit", lambda *arguments, environment: main(arguments))
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning uses what jsonargparse has renamed
