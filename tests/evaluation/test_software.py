import platform
import subprocess

import torch

from dmaxlit import __version__
from dmaxlit.evaluation import software


def test_the_versions_are_those_of_the_code_that_runs():
    versions = software.software()
    assert (versions["dmaxlit"], versions["torch"]) == (__version__, str(torch.__version__))
    assert versions["python"] == platform.python_version()


def test_the_code_s_revision_is_that_of_the_checkout_and_none_for_a_wheel(tmp_path, monkeypatch):
    package = tmp_path / "checkout" / "dmaxlit" / "evaluation"
    package.mkdir(parents=True)
    monkeypatch.setattr(software, "__file__", str(package / "software.py"))
    assert software._code_revision() is None

    def git(*args):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        command = ["git", *identity, "-C", str(tmp_path / "checkout"), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    (package / "software.py").write_text("1")
    git("init", "-q")
    assert software._code_revision() is None  # no commit yet
    git("add", "-A")
    git("commit", "-qm", "one")
    assert software._code_revision() == git("rev-parse", "HEAD")
    (package / "software.py").write_text("2")
    assert software._code_revision() == git("rev-parse", "HEAD") + "-dirty"
