"""The model of a checkpoint as a folder for a short time."""

import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dmaxlit.checkpoints.lightning_file import checkpoint_to_folder
from dmaxlit.errors import UserError
from dmaxlit.files import remove
from dmaxlit.locks import exclusive

_PREFIX = ".dmaxlit-"
_NAME = re.compile(rf"{re.escape(_PREFIX)}[0-9a-f]{{16}}")


@contextmanager
def temporary_model(checkpoint: str | Path, parent: Path | None = None) -> Iterator[Path]:
    """Yield a model folder with the content of a checkpoint, which is removed when the context ends.

    Those of processes that were killed meanwhile are removed first.

    Args:
        checkpoint: A ``.ckpt`` file, or sharded checkpoint, written by ``fit``.
        parent: Where to write it, an existing folder. Default: the system's folder of temporary files.

    Raises:
        UserError: If the checkpoint is missing, damaged, or none of ours, or the folder cannot be written.
    """
    parent = Path(tempfile.gettempdir()) if parent is None else parent
    _remove_abandoned(parent)
    folder = parent / f"{_PREFIX}{secrets.token_hex(8)}"
    with exclusive(folder, "checkpoint"):
        try:
            folder.mkdir(mode=0o700)
            checkpoint_to_folder(checkpoint, folder / "model")
            yield folder / "model"
        finally:
            with suppress(OSError):
                remove(folder)


def _remove_abandoned(parent: Path) -> None:
    """Remove the user's own folders of this kind that no process holds."""
    own = os.getuid() if hasattr(os, "getuid") else 0  # Windows has none, and gives all files 0
    with suppress(OSError):
        for path in parent.iterdir():
            if _NAME.fullmatch(path.name) and path.lstat().st_uid == own:
                with suppress(UserError, OSError), exclusive(path, "checkpoint"):
                    remove(path)
