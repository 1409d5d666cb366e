"""Checkpoint files that are whole or absent, whatever happens while they are written."""

import contextlib
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from dmaxlit.errors import UserError
from dmaxlit.files import sync, system_error

__all__ = ["AtomicCheckpointIO", "damage", "remove_unfinished"]

_UNFINISHED = ".unfinished"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, forces it to the disk, and renames it.

    So a checkpoint under its name is whole, also after a crash of the machine; one that could not be written leaves
    what was there before. (Lightning's own goes through the system's folder for temporary files and memory, and is not
    forced to the disk.) Remote paths are left to Lightning.
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
        unfinished = path.with_name(f".{path.name}.{os.getpid()}{_UNFINISHED}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb") as file, _told_by_the_system():
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
            sync(path.parent)
        except OSError as error:
            raise UserError(f"checkpoint: cannot write {str(path)!r} ({error.strerror or error})") from error
        finally:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable[..., Any] | None = lambda storage, loc: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint.

        Raises:
            UserError: If it is damaged.
        """
        if Path(path).is_file() and (found := damage(path)) is not None:
            raise UserError(f"checkpoint: {str(path)!r} cannot be read, it may be truncated ({found})")
        return super().load_checkpoint(path, map_location, weights_only)


def damage(path: str | Path) -> str | None:
    """What is wrong with a checkpoint file, or None: the checksum of every tensor in it is compared.

    ``torch.load`` notices a truncated file, but not a changed byte.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError) as error:
        return str(error).strip().partition("\n")[0]
    return None if wrong is None else f"wrong checksum of {wrong}"


def remove_unfinished(folder: Path) -> None:
    """Remove what earlier processes were killed over."""
    for path in folder.glob(f".*{_UNFINISHED}"):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _told_by_the_system() -> Iterator[None]:
    """The system's own error where torch, closing its archive after one, raises another."""
    try:
        yield
    except RuntimeError as error:
        raise (system_error(error) or OSError(0, " ".join(str(error).split())[:120])) from error
