"""Folders that are whole or absent, whatever happens while they are written."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from dmaxlit.errors import UserError

__all__ = ["staged"]


@contextmanager
def staged(folder: Path, argument: str) -> Iterator[Path]:
    """A folder beside ``folder`` that takes its place, and its name, when the context ends without an error.

    Args:
        folder: Where; what is there is replaced.
        argument: What the user calls it.

    Raises:
        UserError: If it cannot be written, for instance because the disk is full.
    """
    staging: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        yield staging
        staging.chmod(0o755)  # a temporary folder, and weights written into it, begin as their owner's alone
        for path in staging.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        if folder.exists():
            _replace(folder, staging)
        else:
            staging.rename(folder)
    except BaseException as error:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
        if isinstance(error, (OSError, SafetensorError)):
            raise UserError(f"{argument}: cannot write {str(folder)!r} ({error})") from error
        raise


def _replace(folder: Path, by: Path) -> None:
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
    folder.rename(old / folder.name)
    try:
        by.rename(folder)
    except BaseException:
        (old / folder.name).rename(folder)
        old.rmdir()
        raise
    shutil.rmtree(old, ignore_errors=True)  # the new one is in place
