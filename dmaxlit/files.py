"""Folders that are whole or absent, whatever happens while they are written."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from dmaxlit.errors import UserError

__all__ = ["place_for_file", "read_json", "staged", "sync", "system_error", "weights_hash", "write_json"]


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


def sync(path: Path) -> None:
    """Force a file, or the names in a folder, to the disk, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def system_error(error: BaseException) -> OSError | None:
    """The system's own error, if it is behind another."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    return cause


def place_for_file(output: Path) -> Path:
    """Where to write a file, which then takes its place in one step: a link's target instead of the link.

    Raises:
        UserError: If something stands there that is no file.
    """
    if output.is_dir():
        raise UserError(f"output: expected a file to write, got the folder {str(output)!r}")
    if output.exists() and not output.is_file():
        raise UserError(f"output: expected a file to write, got {str(output)!r}, which is a device or a pipe")
    return output.resolve() if output.is_symlink() else output


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: If the file holds none.
    """
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, got a {type(value).__name__}")
    return value


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file in one step: at any moment either the old or the new content is there."""
    fresh = path.with_name(path.name + ".new")
    with fresh.open("w", encoding="utf-8") as file:
        file.write(json.dumps(value, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)
    sync(path.parent)


def weights_hash(module: Any) -> str:
    """SHA-256 over names, types, shapes and bytes of the model's weights; the same on every device."""
    digest = hashlib.sha256()
    for name, value in sorted(module.backbone.model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
