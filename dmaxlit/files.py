"""Files and folders that are complete or absent, whatever happens while they are written."""

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

_UNFINISHED = ".unfinished"


# ---- folders --------------------------------------------------------------------------------------------------------


@contextmanager
def staged(folder: Path, argument: str) -> Iterator[Path]:
    """Yield a temporary folder that replaces ``folder`` when the context ends without an error.

    Args:
        folder: Folder to write; an existing one is replaced.
        argument: The user's name for it, for messages.

    Raises:
        UserError: If it cannot be written, for instance because the disk is full.
    """
    staging: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        yield staging
        staging.chmod(0o755)  # a temporary folder, and weights written into it, are at first readable only by the owner
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


def _replace(folder: Path, staging: Path) -> None:
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
    folder.rename(old / folder.name)
    try:
        staging.rename(folder)
    except BaseException:
        (old / folder.name).rename(folder)
        old.rmdir()
        raise
    shutil.rmtree(old, ignore_errors=True)  # the new folder is complete


# ---- files ----------------------------------------------------------------------------------------------------------


@contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to ``path``; when the context ends without an error, the file there replaces it.

    The bytes are forced to the disk before the file gets its name, so a file under that name is complete even after a
    crash of the machine. After an error the old file is still there.

    Args:
        path: File to write; its folder is created if necessary.

    Raises:
        OSError: If it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.{os.getpid()}{_UNFINISHED}")
    try:
        yield staging
        handle = os.open(staging, os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        staging.replace(path)
        sync(path.parent)
    finally:
        with contextlib.suppress(OSError):
            staging.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files of processes that were killed in :func:`staged_file`."""
    for path in folder.glob(f".*{_UNFINISHED}"):
        path.unlink(missing_ok=True)


def writable_path(output: Path) -> Path:
    """Return the path to write so that ``output`` is replaced: a link's target instead of the link.

    Raises:
        UserError: If it exists and is not a file.
    """
    if output.is_dir():
        raise UserError(f"output: expected a file to write, got the folder {str(output)!r}")
    if output.exists() and not output.is_file():
        raise UserError(f"output: expected a file to write, got {str(output)!r}, which is a device or a pipe")
    return output.resolve() if output.is_symlink() else output


def require_writable(path: Path) -> None:
    """Try whether a file could be written, and leave nothing behind.

    Args:
        path: The file. Its folder need not exist.

    Raises:
        OSError: If the folder is no folder or read-only, or the name is too long for it.
    """
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    # A name as long as the temporary ones.
    name = f".{path.name}.progress.json.{os.getpid()}{_UNFINISHED}" if folder == path.absolute().parent else "new"
    probe = folder / name
    os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    probe.unlink()


def sync(path: Path) -> None:
    """Force a file, or the names in a folder, to the disk, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def system_error(error: BaseException) -> OSError | None:
    """Return the operating system's error behind another, or None."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    return cause


# ---- content --------------------------------------------------------------------------------------------------------


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        UserError: If the file cannot be read, or holds something else.
    """
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, got a {type(value).__name__}")
    return value


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file in one step: at any moment it holds either the old or the new content.

    Raises:
        OSError: If it cannot be written.
    """
    with staged_file(path) as staging:
        staging.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def weights_hash(module: Any) -> str:
    """Return the SHA-256 of names, types, shapes and bytes of the model's weights; the same on every device."""
    digest = hashlib.sha256()
    for name, value in sorted(module.backbone.model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
