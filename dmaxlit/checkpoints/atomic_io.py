"""Checkpoint files that are complete or absent, whatever happens while they are written."""

import contextlib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from dmaxlit.checkpoints.plain_data import load_plain, refuse_other_objects, require_local
from dmaxlit.errors import UserError, reason_of
from dmaxlit.files import staged_file, system_error

_CHUNK = 2**20


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint next to its destination, forces it to the disk, and renames it.

    A checkpoint under its name is therefore complete, even after a crash of the machine, and a failed write leaves the
    old one. (Lightning's own IO goes through memory and the system's temporary folder, and does not force the file to
    the disk.) Writing to remote paths is left to Lightning; nothing is read from them.
    """

    _verified: tuple[object, ...] | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint.

        Raises:
            UserError: If it cannot be written, for instance because the disk is full, or could not be read again.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        try:
            with staged_file(path) as staging:
                with staging.open("wb") as file, _raising_system_errors():
                    torch.save(checkpoint, file)
                refuse_other_objects(staging, path)
        except OSError as error:
            raise UserError(f"checkpoint: cannot write {str(path)!r} ({error.strerror or error})") from error

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable[..., Any] | None = lambda storage, loc: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a local checkpoint, always with ``weights_only``: nothing in it is executed.

        Its tensors stay in the file until they are copied or changed, so that all ranks of a machine share the memory.

        Raises:
            UserError: If it is remote, damaged, or holds more than plain data and tensors.
        """
        require_local(path)
        is_verified = Path(path).is_file() and _identity(path) == self._verified
        if Path(path).is_file() and not is_verified and (reason := damage(path)) is not None:
            raise UserError(f"checkpoint: {str(path)!r} cannot be read, it may be truncated ({reason})")
        return load_plain(path, map_location=map_location, mmap=zipfile.is_zipfile(path))

    def set_verified(self, path: str | Path) -> None:
        """Do not verify a file again that just was, unless it is changed before it is read."""
        self._verified = _identity(path)


def _identity(path: str | Path) -> tuple[object, ...]:
    status = Path(path).stat()
    return Path(path).resolve(), status.st_ino, status.st_size, status.st_mtime_ns


def damage(path: str | Path, tensors: bool = True) -> str | None:
    """Return what is wrong with a checkpoint file, or None, by the checksums in it; no more than a part is in memory.

    ``torch.load`` notices a truncated file, but not a changed byte.

    Args:
        path: The file.
        tensors: Whether to read the tensors too, which are nearly all of it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if (tensors or "/data/" not in member.filename) and not _is_whole(archive, member):
                    return f"wrong checksum of {member.filename}"
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError) as error:
        return str(error).strip().partition("\n")[0]
    return None


def _is_whole(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bool:
    try:
        with archive.open(member) as content:
            while content.read(_CHUNK):
                pass
    except zipfile.BadZipFile:
        return False
    return True


def refuse_damaged(path: str | Path, tensors: bool = True) -> None:
    """Refuse a damaged checkpoint file; see :func:`damage`.

    Raises:
        UserError: If it is.
    """
    if (reason := damage(path, tensors)) is not None:
        raise UserError(f"checkpoint: {str(path)!r} cannot be read, it is damaged ({reason})")


@contextlib.contextmanager
def _raising_system_errors() -> Iterator[None]:
    """Raise the system's error where torch, closing its archive after one, raises another."""
    try:
        yield
    except RuntimeError as error:
        raise (system_error(error) or OSError(0, reason_of(error))) from error
