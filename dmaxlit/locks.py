"""Locks: a file or folder is written by one process at a time."""

import errno
import json
import os
import re
import socket
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal

from filelock import FileLock, SoftFileLock, Timeout

from dmaxlit.errors import DMaxWarning, UserError

try:
    import fcntl
except ImportError:  # Windows, whose disks have locks
    fcntl = None  # type: ignore[assignment]

_PATIENCE = 0.3  # seconds; the lock of a process that is just ending may need a second look
_ADDRESS = re.compile(r"[A-Za-z][\w.+-]+:/")  # s3://bucket, which as a path has lost a slash; no drive, as in C:/
_FOREVER = -1  # as filelock has it
# What disks without locks answer, as some that are shared over a network.
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
_holds: Counter[tuple[int, Path]] = Counter()  # by process, as a forked one inherits the counts but not the right


def is_address(path: Path | str) -> bool:
    """Return whether a path is an address such as ``s3://...``, which would become a folder ``s3:`` here."""
    return _ADDRESS.match(str(path)) is not None


@contextmanager
def exclusive(path: Path, argument: str, on_wait: Callable[[str], object] | None = None) -> Iterator[None]:
    """Keep other processes from writing a file, or from replacing a folder, until the context ends.

    The lock is ``.<name>.lock`` next to it. The operating system drops it when the process dies, so that nothing has
    to be removed after a kill; after a normal end it is gone. Within a process, contexts of one path may nest.

    On a disk without locks the lock is the file itself, which names its process: a killed one's is taken over on the
    same host, and has to be removed by hand for others. A warning says so.

    Args:
        path: The file or folder; it need not exist.
        argument: The user's name for it, for messages.
        on_wait: Wait for another process that holds it, for as long as that lives, and call this with the name of the
            process first. Default: do not wait.

    Raises:
        UserError: If another process holds it and ``on_wait`` is None, with the name of that process; or for an address
            such as ``s3://...``, which would become a folder ``s3:``.
    """
    with _locked(_lock_of(path), path, argument, on_wait):
        yield


def hold_of(path: Path) -> Literal["held", "released", "killed"]:
    """Return whether a process holds a file (see :func:`exclusive`), released it, or was killed while it held it."""
    lock = _lock_of(path)
    try:
        if not lock.exists():
            return "released"
        if not _has_locks(lock.parent):
            return "held"
        with FileLock(lock, timeout=0, thread_local=False):
            if lock.stat().st_size:  # who ends in order removes it
                return "killed"
            lock.unlink(missing_ok=True)  # released just now, and created again by this look
            return "released"
    except (Timeout, OSError):  # a shared disk that does not answer for a moment is no sign of an end
        return "held"


def holder(path: Path) -> str:
    """Return which process holds a file, or has been killed while it held it: ``process 12 on host``.

    A process that does not see the lock of another one is not on the same disk.
    """
    return _holder(_lock_of(path))


@contextmanager
def exclusive_folder(folder: Path, argument: str) -> Iterator[None]:
    """Keep other processes from writing into a folder until the context ends; see :func:`exclusive`.

    The lock is ``.lock`` in the folder, which is created, and removed if it is still empty at the end.
    """
    with _locked(folder.absolute() / ".lock", folder, argument):
        yield


@contextmanager
def _locked(lock: Path, path: Path, argument: str, on_wait: Callable[[str], object] | None = None) -> Iterator[None]:
    if is_address(path):
        raise UserError(f"{argument}: expected a path on this machine, got the address {str(path)!r}")
    with ExitStack() as stack:
        try:
            stack.enter_context(created_folder(lock.parent))
            lock = lock.parent.resolve() / lock.name
            hold = (os.getpid(), lock)
            if not _holds[hold]:
                _acquire(stack, lock, on_wait)
        except Timeout as error:
            raise UserError(f"{argument}: {str(path)!r} is being written by {_holder(lock)}") from error
        except OSError as error:
            raise UserError(f"{argument}: cannot write {str(path)!r} ({error.strerror or error})") from error
        _holds[hold] += 1
        try:
            yield
        finally:
            _holds[hold] -= 1


def _acquire(stack: ExitStack, lock: Path, on_wait: Callable[[str], object] | None) -> None:
    try:
        stack.enter_context(_acquired(lock))
    except Timeout:
        if on_wait is None:
            raise
        on_wait(_holder(lock))
        stack.enter_context(_acquired(lock, _FOREVER))


def remove_abandoned(folder: Path, names: str) -> None:
    """Remove the locks that killed processes left next to folders which nobody will lock again; empty folders too.

    Args:
        folder: The folder that these are in.
        names: Pattern of their names: ``version_*``.
    """
    for lock in folder.glob(f".{names}.lock"):
        with suppress(OSError, Timeout), _acquired(lock, patience=0):
            lock.with_name(lock.name.removeprefix(".").removesuffix(".lock")).rmdir()


@contextmanager
def _acquired(lock: Path, patience: float = _PATIENCE) -> Iterator[None]:
    """Hold a lock file, and remove it before it is released: who opened it in time finds that it has no name."""
    if not _has_locks(lock.parent):
        with _marked(lock, patience):
            yield
        return
    holder = FileLock(lock, timeout=patience, thread_local=False)
    with holder:
        with suppress(OSError):  # only for the message of others
            record = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
            with os.fdopen(os.open(lock, os.O_WRONLY | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0)), "w") as file:
                file.write(record)
        process = os.getpid()
        try:
            yield
        finally:
            if os.getpid() == process:  # not in a forked one, such as a loader's worker
                with suppress(OSError):
                    lock.unlink(missing_ok=True)


def _has_locks(folder: Path) -> bool:
    if fcntl is None:
        return True
    try:
        with TemporaryFile(dir=folder) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:  # any other one is that of the lock too
        return error.errno not in _UNSUPPORTED
    return True


@contextmanager
def _marked(lock: Path, patience: float) -> Iterator[None]:
    """Hold a file that exists while it is held, on a disk without locks."""
    with SoftFileLock(lock, timeout=patience, thread_local=False):
        warnings.warn(
            f"{str(lock.parent)!r} is on a disk without locks: a lock there that a killed process of another host left "
            "has to be removed by hand",
            DMaxWarning,
            stacklevel=2,
        )
        yield


@contextmanager
def created_folder(folder: Path) -> Iterator[None]:
    """Create a folder with its parents, unless it exists, and remove at the end what was created and is empty.

    Raises:
        OSError: If it cannot be created.
    """
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):
            for path in new:
                path.rmdir()


def _lock_of(path: Path) -> Path:
    place = path.absolute()
    return place.with_name(f".{place.name}.lock")


def _holder(lock: Path) -> str:
    try:
        text = lock.read_text(encoding="utf-8")
        if not text.startswith("{"):  # of filelock, on a disk without locks
            process, host, *_ = text.splitlines()
            return f"process {int(process)} on {host}"
        record = json.loads(text)
        return f"process {int(record['pid'])} on {record['host']}"
    except (OSError, ValueError, TypeError, KeyError):
        return "another process"
