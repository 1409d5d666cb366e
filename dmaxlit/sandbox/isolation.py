"""What separates processes on this machine, found by trying it once."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
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
# Start-up does not import random, which needs modules in C: a Python that only starts has lost its library.
_PROBE = b"import random, threading; t = threading.Thread(target=print, args=(42,)); t.start(); t.join()"
_PROBE_SECONDS = 20
_THREADS = 256  # that a sample may have
_COUNT_SECONDS = 5.0  # between two counts of the user's threads: reading all processes takes a large machine long
_OURS = 2  # processes in a sandbox that are not the sample's, at most
_COUNTS_IN_NAMESPACES = [5, 14]  # the version of Linux from which each namespace of users has its own number of threads
_SEPARATED: tuple[Level, ...] = ("bubblewrap", "namespaces")


def level_of(settings: SandboxSettings) -> Level:
    """Return the level at which processes are separated.

    Raises:
        UserError: If this machine does not have the level that the settings name, or none for ``auto``.
    """
    if os.name != "posix":
        raise UserError(f"sandbox: expected Linux or macOS, got {platform.system()}; run in WSL or a Linux container")
    candidates = _SEPARATED if settings.level == "auto" else (settings.level,)
    reasons = {level: reason_against(level) for level in candidates}
    for level, reason in reasons.items():
        if reason is None:
            if level == "rlimits":
                _warn_once(unenforced())
            return level
    listed = "; ".join(f"{level}: {reason}" for level, reason in reasons.items())
    refused = f"sandbox: expected {' or '.join(candidates)}, got none here ({listed})"
    if settings.level == "rlimits":
        raise UserError(refused)
    raise UserError(f"{refused}; install bubblewrap, allow user namespaces, or accept less with the level 'rlimits'")


def available_levels() -> dict[str, str]:
    """Return for each level ``works`` or the reason why it does not on this machine, for records of runs."""
    separated: dict[str, str] = {level: reason_against(level) or "works" for level in _SEPARATED}
    return {**separated, "rlimits": reason_against("rlimits") or unenforced()}


def unenforced() -> str:
    """Return one line about what the level ``rlimits`` does not enforce."""
    missing = ["the files of a sample are bounded one by one", "it can see which files and processes there are"]
    if not landlock.version():
        missing = ["a sample can read and write what this user can, and look into this user's processes"]
    if _most_threads("rlimits", 1) is None:
        missing.append("threads are not bounded")
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        missing += ["the network is open", "processes that a sample starts may outlive it"]
    return "; ".join(missing)


@cache
def reason_against(level: Level) -> str | None:
    """Return why a level does not work here, or None if it does; tried once in each process."""
    if level != "rlimits" and sys.platform != "linux":
        return f"expected Linux, got {platform.system()}"
    if level == "bubblewrap" and shutil.which("bwrap") is None:
        return "bwrap is not installed"
    return _failure(level)


@cache
def _sees_all_threads() -> bool:
    """Return whether a sample can start a thread where the system counts those of the user.

    It cannot if other containers have more of them, which this one does not see.
    """
    return _failure("rlimits", threads=_counted(_THREADS)) is None or _failure("rlimits", threads=None) is not None


def _failure(level: Level, **details: int | None) -> str | None:
    """Return why the probe fails, or None.

    Args:
        level: The level.
        details: ``threads``, if another number than that of the level.
    """
    command = command_of("program", level, SandboxSettings(), {"pipes": [0], "arguments": [], **details})
    options: dict[str, Any] = {"capture_output": True, "timeout": _PROBE_SECONDS, "env": environment(), "check": False}
    try:
        with tempfile.TemporaryDirectory() as folder:
            run = subprocess.run(command, input=_PROBE, cwd=folder, **options)
    except (OSError, subprocess.TimeoutExpired) as error:
        return type(error).__name__
    if run.stdout == b"42\n":
        return None
    lines = run.stderr.decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), f"status {run.returncode}")[:200]


def environment() -> dict[str, str]:
    """Return the environment in which the interpreter starts; the sample has none of it.

    Of this process's environment it has the path of shared libraries alone, without which some Pythons do not start.
    Sets have the same order in every run.
    """
    libraries = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return {"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", **libraries}


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
    if "threads" not in values:
        values["threads"] = _most_threads(level, settings.processes)
    folder = _INSIDE_BUBBLEWRAP if level == "bubblewrap" else str(_INSIDE.parent)
    boot = [interpreter, "-s", "-S", "-B", "-X", "utf8", "-c", _BOOT.format(folder=folder), job, json.dumps(values)]
    return [*_bubblewrap(visible, settings), *boot] if level == "bubblewrap" else boot


def _packages() -> list[str]:
    """Return the folders of this environment's packages."""
    return sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})


def _most_threads(level: Level, processes: int) -> int | None:
    """Return how many threads there may be when a sample starts one, by the count that the system compares; or None."""
    own = processes + _OURS if processes > 1 else _THREADS
    version = [int(number) for number in re.findall(r"\d+", platform.release())[:2]]
    if level != "rlimits" and version >= _COUNTS_IN_NAMESPACES:
        return own
    return _counted(max(own, _THREADS)) if _sees_all_threads() else None  # other ones of the user's come and go


def _counted(own: int) -> int | None:
    others = _threads_of_user(int(time.monotonic() / _COUNT_SECONDS))
    return others and others + own


@lru_cache(maxsize=1)
def _threads_of_user(now: int) -> int | None:
    """Return how many threads all processes of this user have, or None where the system does not show them.

    Args:
        now: The time; they are counted once for each.
    """
    user, count = os.getuid(), 0
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if path.stat().st_uid == user:
                found = re.search(r"^Threads:\s*(\d+)", (path / "status").read_text(errors="replace"), re.MULTILINE)
                count += int(found[1]) if found else 0
        except OSError:  # it has ended
            continue
    return count or None


def _visible(interpreter: str, packages: Sequence[str]) -> list[str]:
    named = [*_SYSTEM, sys.base_prefix, sys.base_exec_prefix, os.path.dirname(interpreter), *packages]
    # Python looks for its library from where its file really is.
    folders = [path for folder in named for path in (folder, os.path.realpath(folder))]
    existing = dict.fromkeys(folder for folder in folders if os.path.exists(folder))
    # A folder within another one comes with it.
    return [path for path in existing if not any(path.startswith(f"{other}/") for other in existing)]


def _bubblewrap(visible: Sequence[str], settings: SandboxSettings) -> list[str]:
    program = os.path.abspath(shutil.which("bwrap") or "bwrap")  # it is started without PATH, and in another folder
    command = [program, "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    for path in visible:
        command += ["--symlink", os.path.realpath(path), path] if os.path.islink(path) else ["--ro-bind", path, path]
    command += ["--ro-bind", str(_INSIDE), f"{_INSIDE_BUBBLEWRAP}/inside"]
    for device in landlock.DEVICES:
        command += ["--dev-bind", device, device]
    scratch = ["--size", str(settings.file_mib * 2**20), "--tmpfs", "/scratch", "--chdir", "/scratch"]
    return [*command, *scratch, "--remount-ro", "/", "--"]


@cache
def _warn_once(text: str) -> None:
    warnings.warn(f"sandbox: level 'rlimits': {text}", DMaxWarning, stacklevel=4)
