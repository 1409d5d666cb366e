"""What separates processes on this machine, found by trying it once."""

import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from dmaxlit.errors import DMaxWarning, UserError
from dmaxlit.sandbox.inside import landlock
from dmaxlit.sandbox.settings import Level, SandboxSettings

__all__ = ["available_levels", "command_of", "environment", "level_of", "reason_against", "unenforced"]

_INSIDE = Path(__file__).parent / "inside"
_SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/etc/ld.so.cache")
_BOOT = "import sys; sys.path[0] = {folder!r}; from inside.start import main; main()"
_INSIDE_BUBBLEWRAP = "/sandbox"
_PROBE_SECONDS = 20
_SEPARATED: tuple[Level, ...] = ("bubblewrap", "namespaces")


def level_of(settings: SandboxSettings) -> Level:
    """Return the level at which processes are separated.

    Raises:
        UserError: If this machine does not have the level that the settings name, or none for ``auto``.
    """
    if os.name != "posix":
        raise UserError(f"sandbox: expected Linux or macOS, got {platform.system()}; run in WSL or a Linux container")
    if settings.level == "rlimits":
        _warn_once(unenforced())
        return "rlimits"
    candidates = _SEPARATED if settings.level == "auto" else (settings.level,)
    reasons = {level: reason_against(level) for level in candidates}
    for level, reason in reasons.items():
        if reason is None:
            return level
    listed = "; ".join(f"{level}: {reason}" for level, reason in reasons.items())
    raise UserError(
        f"sandbox: expected {' or '.join(candidates)}, got none here ({listed}); install bubblewrap, allow user "
        "namespaces, or accept less with the level 'rlimits'"
    )


def available_levels() -> dict[str, str]:
    """Return for each level ``works`` or the reason why it does not on this machine, for records of runs."""
    reasons = {level: reason_against(level) for level in _SEPARATED}
    return {**{level: reason or "works" for level, reason in reasons.items()}, "rlimits": unenforced()}


def unenforced() -> str:
    """Return one line about what the level ``rlimits`` does not enforce."""
    missing = ["the files of a sample are bounded one by one", "it can see which files and processes there are"]
    if not landlock.version():
        missing = ["a sample can read and write what this user can, and look into this user's processes"]
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        missing += ["the network is open", "processes that a sample starts may outlive it"]
    return "; ".join(missing)


@cache
def reason_against(level: Level) -> str | None:
    """Return why a level does not work here, or None if it does; tried once in each process."""
    if sys.platform != "linux":
        return f"expected Linux, got {platform.system()}"
    if level == "bubblewrap" and shutil.which("bwrap") is None:
        return "bwrap is not installed"
    command = command_of("program", level, SandboxSettings(), {"pipes": [0], "arguments": []})
    try:
        run = subprocess.run(
            command, input=b"print(6 * 7)", capture_output=True, timeout=_PROBE_SECONDS, env=environment(), check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return type(error).__name__
    if run.stdout == b"42\n":
        return None
    lines = run.stderr.decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), f"status {run.returncode}")[:200]


def environment() -> dict[str, str]:
    """Return the environment of the interpreter; nothing of this process's. Sets have the same order in every run."""
    return {"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def command_of(job: str, level: Level, settings: SandboxSettings, details: Mapping[str, Any]) -> list[str]:
    """Return the command that starts a process of the sandbox.

    Args:
        job: ``program``, ``sample`` or ``tests``.
        level: How it is separated, not ``auto``.
        settings: Its bounds.
        details: More for the job itself: ``pipes``, the file descriptors it inherits beyond the standard ones; and
            ``arguments`` of a program.
    """
    packages = _packages() if settings.site_packages or job == "tests" else []
    interpreter = os.path.realpath(sys.executable)
    visible = _visible(interpreter, packages)
    values = {
        "level": level,
        "parent": os.getpid(),
        "visible": visible,
        "packages": packages,
        **{name: getattr(settings, name) for name in ("cpu_seconds", "memory_mib", "processes", "file_mib")},
        **details,
    }
    folder = _INSIDE_BUBBLEWRAP if level == "bubblewrap" else str(_INSIDE.parent)
    boot = [interpreter, "-s", "-S", "-B", "-X", "utf8", "-c", _BOOT.format(folder=folder), job, json.dumps(values)]
    return [*_bubblewrap(visible, settings), *boot] if level == "bubblewrap" else boot


def _packages() -> list[str]:
    """Return the folders of this environment's packages."""
    return sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})


def _visible(interpreter: str, packages: Sequence[str]) -> list[str]:
    folders = [*_SYSTEM, sys.base_prefix, sys.base_exec_prefix, os.path.dirname(interpreter), *packages]
    existing = dict.fromkeys(folder for folder in folders if os.path.exists(folder))
    # A folder within another one comes with it.
    return [path for path in existing if not any(path.startswith(f"{other}/") for other in existing)]


def _bubblewrap(visible: Sequence[str], settings: SandboxSettings) -> list[str]:
    program = os.path.abspath(shutil.which("bwrap") or "bwrap")  # it is started without PATH, and in another folder
    command = [program, "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    for path in visible:
        target = os.path.islink(path) and os.readlink(path)
        command += ["--symlink", target, path] if target else ["--ro-bind", path, path]
    command += ["--ro-bind", str(_INSIDE), f"{_INSIDE_BUBBLEWRAP}/inside"]
    for device in landlock.DEVICES:
        command += ["--dev-bind", device, device]
    scratch = ["--size", str(settings.file_mib * 2**20), "--tmpfs", "/scratch", "--chdir", "/scratch"]
    return [*command, *scratch, "--remount-ro", "/", "--"]


@cache
def _warn_once(text: str) -> None:
    warnings.warn(f"sandbox: level 'rlimits': {text}", DMaxWarning, stacklevel=4)
