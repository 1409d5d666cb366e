"""The versions of the code that figures were made by."""

import platform
import shutil
import subprocess
from pathlib import Path

import lightning
import torch
import transformers

from dmaxlit.version import __version__


def software() -> dict[str, str | None]:
    """Return the versions of this package, Python and the libraries that figures depend on.

    ``revision`` is the commit of the checkout that this package is imported from, ``-dirty`` if changed; None for a
    wheel.
    """
    return {
        "dmaxlit": __version__,
        "revision": _code_revision(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "lightning": lightning.__version__,
    }


def _code_revision() -> str | None:
    folder, git = Path(__file__).parents[2], shutil.which("git")
    if git is None or not (folder / ".git").exists():
        return None
    command = [git, "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None if done.returncode == 0 else None
