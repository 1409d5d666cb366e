"""Temporary folders that do not outlive the process, however it ends."""

import errno
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dmaxlit.errors import UserError
from dmaxlit.files import system_error

# Waits for the end of its standard input, which comes when the process that holds the other end is gone.
_REMOVE_AT_END = 'read -r _; rm -rf -- "$1"'
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


@contextmanager
def scratch_folder(content: str) -> Iterator[Path]:
    """Yield an empty temporary folder, removed when the context ends, and also if the process is killed in it.

    Args:
        content: What is written to it, for messages.

    Raises:
        UserError: If the system's temporary folder is full or read-only.
    """
    try:
        with _removed_at_end(Path(tempfile.gettempdir()) / f"dmaxlit-{secrets.token_hex(8)}") as folder:
            folder.mkdir(mode=0o700)
            yield folder
    except Exception as error:
        reason = system_error(error)
        if reason is None or reason.errno not in _UNWRITABLE:
            raise
        parent = tempfile.gettempdir()
        raise UserError(f"TMPDIR: cannot write {content} to {parent!r} ({reason.strerror})") from error


@contextmanager
def _removed_at_end(folder: Path) -> Iterator[Path]:
    shell = shutil.which("sh")
    if shell is None:  # on Windows, where a killed process leaves the folder behind
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return
    # In a session of its own, so that neither Ctrl-C nor a signal to the whole group ends it first.
    command = [shell, "-c", _REMOVE_AT_END, "dmaxlit", str(folder)]
    silent = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=silent, stderr=silent, start_new_session=True):
        yield folder
