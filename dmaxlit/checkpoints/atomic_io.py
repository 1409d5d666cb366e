"""Checkpoint files that are complete or absent, whatever happens while they are written."""

import contextlib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from dmaxlit.checkpoints.plain_data import load_plain, require_local
from dmaxlit.errors import UserError
from dmaxlit.files import staged_file, system_error


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint next to its destination, forces it to the disk, and renames it.

    A checkpoint under its name is therefore complete, even after a crash of the machine, and a failed write leaves the
    old one. (Lightning's own IO goes through memory and the system's temporary folder, and does not force the file to
    the disk.) Writing to remote paths is left to Lightning; nothing is read from them.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint.

        Raises:
            UserError: If it cannot be written, for instance because the disk is full.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        try:
            with staged_file(path) as staging, staging.open("wb") as file, _raising_system_errors():
                torch.save(checkpoint, file)
        except OSError as error:
            raise UserError(f"checkpoint: cannot write {str(path)!r} ({error.strerror or error})") from error

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable[..., Any] | None = lambda storage, loc: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a local checkpoint, always with ``weights_only``: nothing in it is executed.

        Raises:
            UserError: If it is remote, damaged, or holds more than plain data and tensors.
        """
        require_local(path)
        if Path(path).is_file() and (reason := damage(path)) is not None:
            raise UserError(f"checkpoint: {str(path)!r} cannot be read, it may be truncated ({reason})")
        return load_plain(path, map_location=map_location)


def damage(path: str | Path) -> str | None:
    """Return what is wrong with a checkpoint file, or None; the checksum of every tensor in it is verified.

    ``torch.load`` notices a truncated file, but not a changed byte.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError) as error:
        return str(error).strip().partition("\n")[0]
    return None if member is None else f"wrong checksum of {member}"


@contextlib.contextmanager
def _raising_system_errors() -> Iterator[None]:
    """Raise the system's error where torch, closing its archive after one, raises another."""
    try:
        yield
    except RuntimeError as error:
        raise (system_error(error) or OSError(0, " ".join(str(error).split())[:120])) from error
