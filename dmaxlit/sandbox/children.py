"""Processes of a sandbox: started with nothing of ours, read up to a bound, and ended with all they started."""

import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from typing import IO, Any

from dmaxlit.sandbox.isolation import environment
from dmaxlit.sandbox.settings import Bound

__all__ = ["ended_at_exit", "file_with", "read_bounded", "scratch_folder", "start"]

_CHUNK = 65536  # bytes


def file_with(content: bytes) -> IO[bytes]:
    """Return a nameless file with a content, at its beginning."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 (the caller closes it)
    file.write(content)
    file.seek(0)
    return file


@contextmanager
def scratch_folder() -> Iterator[str]:
    """Make a working folder, and remove it at the end, however deeply a sample has nested others in it."""
    folder = tempfile.mkdtemp()
    scratch = os.path.join(folder, "scratch")
    try:
        os.mkdir(scratch, mode=0o700)
        yield scratch
    finally:
        with suppress(OSError):  # what cannot be removed stays in the system's folder for temporary files
            _remove_flat(folder)


def _remove_flat(folder: str) -> None:
    """Remove a folder of folders. Nested ones are moved up first: recursion would exceed its limit."""
    numbers = count()
    pending = [entry.path for entry in os.scandir(folder)]
    while pending:
        current = pending.pop()
        os.chmod(current, 0o700)
        with os.scandir(current) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    os.chmod(entry.path, 0o700)  # a folder that cannot be written cannot be moved
                    pending.append(os.path.join(folder, str(next(numbers))))
                    os.rename(entry.path, pending[-1])
                else:
                    os.unlink(entry.path)
        os.rmdir(current)
    os.rmdir(folder)


def start(
    command: Sequence[str], folder: str, inherited: Sequence[int] = (), **streams: Any
) -> "subprocess.Popen[bytes]":
    """Start a process in a session of its own, without our environment and file descriptors.

    Args:
        command: The command.
        folder: Its working folder.
        inherited: File descriptors it has beyond the standard ones.
        **streams: ``stdin``, ``stdout`` and ``stderr`` of :class:`subprocess.Popen`.
    """
    return subprocess.Popen(
        command, cwd=folder, env=environment(), pass_fds=tuple(inherited), start_new_session=True, bufsize=0, **streams
    )


@contextmanager
def ended_at_exit(processes: "list[subprocess.Popen[bytes]]") -> Iterator[None]:
    """End the processes of a list, and all that they started, when the block ends."""
    try:
        yield
    finally:
        for process in processes:
            if process.returncode is None:  # not waited for: its id is not another one's
                with suppress(ProcessLookupError, PermissionError):  # macOS, if it has ended
                    os.killpg(process.pid, signal.SIGKILL)
        for process in processes:
            process.wait()


def read_bounded(streams: Mapping[str, IO[bytes]], deadline: float, most: int) -> tuple[dict[str, bytes], Bound | None]:
    """Read streams to their ends.

    Args:
        streams: The streams by name; they are closed.
        deadline: Time of :func:`time.monotonic` at which reading stops.
        most: Bytes, of all streams together, after which reading stops.

    Returns:
        What was read, by name; and ``wall_seconds`` or ``output_kib`` if it stopped there, or None.
    """
    content: dict[str, bytearray] = {name: bytearray() for name in streams}
    stopped_by: Bound | None = None
    with selectors.DefaultSelector() as selector:
        for name, stream in streams.items():
            selector.register(stream, selectors.EVENT_READ, name)
        while selector.get_map() and stopped_by is None:
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            for key, _ in ready:
                chunk = os.read(key.fd, min(_CHUNK, most + 1 - sum(map(len, content.values()))))
                content[key.data] += chunk
                if not chunk:
                    selector.unregister(key.fileobj)
                if sum(map(len, content.values())) > most:
                    stopped_by = "output_kib"
                    break
            if not ready and time.monotonic() >= deadline:
                stopped_by = "wall_seconds"
    for stream in streams.values():
        stream.close()
    return {name: bytes(read[:most]) for name, read in content.items()}, stopped_by
