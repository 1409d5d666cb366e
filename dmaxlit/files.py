"""Files and folders that are complete or absent, whatever happens while they are written."""

import contextlib
import errno
import glob
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError

from dmaxlit.errors import UserError
from dmaxlit.locks import exclusive, is_address

_UNFINISHED, _OLD = ".unfinished", ".old"


def expanded(path: Path | str) -> str:
    """Return a path with the home folder in place of a leading ``~``: from Python and YAML no shell puts it there."""
    return os.path.expanduser(path)


def is_pattern(path: Path | str) -> bool:
    """Return whether a path is a pattern (``data/*.jsonl``), and not the name of a file or folder that looks like one.

    A folder that exists under such a name makes no pattern of the paths in it.
    """
    path = Path(path)
    return any(glob.has_magic(part.name) and not os.path.exists(part) for part in (path, *path.parents))


def refuse_address(path: Path | str, argument: str, advice: str = "") -> None:
    """Refuse an address for a folder before anything is done; locks refuse it too (:func:`~dmaxlit.locks.is_address`).

    Args:
        path: What the user gave.
        argument: The user's name for it, for messages.
        advice: End of the message.

    Raises:
        UserError: If it is one.
    """
    if is_address(path):
        raise UserError(f"{argument}: expected a folder on this machine, got {str(path)!r}{advice}")


# ---- names of what is unfinished ------------------------------------------------------------------------------------


def _unfinished(path: Path, suffix: str = _UNFINISHED) -> Path:
    """Return a name next to ``path`` that nobody can have taken beforehand, to make a link of it for instance."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}{suffix}")


def _left_behind(path: Path, suffix: str) -> list[Path]:
    """Return what killed processes left under such names."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}{re.escape(suffix)}")
    return [other for other in path.parent.iterdir() if pattern.fullmatch(other.name)] if path.parent.is_dir() else []


def remove_unfinished(folder: Path, name: str | None = None) -> None:
    """Remove the temporary files of processes that were killed in :func:`staged_file`.

    To be called only while no other process can be writing these files.

    Args:
        folder: The folder of the files.
        name: Name of a file that was to be written, or the beginning of several names up to a dot. Default: any.
    """
    begin = r"\..+" if name is None else rf"\.{re.escape(name)}(\..+)?"
    pattern = re.compile(rf"{begin}\.[0-9a-f]+{re.escape(_UNFINISHED)}")
    for path in folder.iterdir():
        if pattern.fullmatch(path.name) and (path.is_symlink() or not path.is_dir()):
            path.unlink(missing_ok=True)


# ---- folders --------------------------------------------------------------------------------------------------------


@contextmanager
def staged(folder: Path, argument: str, replaced: Sequence[str] = ("*",)) -> Iterator[Path]:
    """Yield a temporary folder that replaces ``folder`` when the context ends without an error.

    What killed processes left of earlier attempts is removed. Files and folders get the modes that the umask allows.

    Args:
        folder: Folder to write; an existing one is replaced.
        argument: The user's name for it, for messages.
        replaced: Patterns of the names in it that go with it; others stay, unless the new folder has them too.

    Raises:
        UserError: If it cannot be replaced or written, for instance because the disk is full, or another process is
            writing it.
    """
    require_replaceable(folder, argument)
    with exclusive(folder, argument):
        staging = _unfinished(folder)
        try:
            _clear(folder)
            staging.mkdir()
            yield staging
            mode = staging.stat().st_mode & 0o666
            for path in staging.rglob("*"):
                if path.is_file() and not path.is_symlink():
                    path.chmod(mode)  # weights are at first readable only by the owner
            _keep(folder, staging, replaced)
            _replace(folder, staging)
        except BaseException as error:
            shutil.rmtree(staging, ignore_errors=True)
            if isinstance(error, (OSError, SafetensorError)):
                raise UserError(f"{argument}: cannot write {str(folder)!r} ({error})") from error
            raise


def require_replaceable(folder: Path, argument: str) -> None:
    """Refuse the current folder, which would be another one after that, and those that hold it.

    Args:
        folder: Folder to write.
        argument: The user's name for it, for messages.

    Raises:
        UserError: If it is one of them.
    """
    if Path.cwd().is_relative_to(real_path(folder)):
        raise UserError(
            f"{argument}: expected a folder that can be replaced, got {str(folder)!r}, which is the current one or "
            "holds it"
        )


def _clear(folder: Path) -> None:
    """Remove what killed processes left, and undo the first of the renames of :func:`_replace` if it is the last."""
    for old in _left_behind(folder, _OLD):
        if os.path.lexists(folder):
            remove(old)
        else:
            old.rename(folder)
    for staging in _left_behind(folder, _UNFINISHED):
        remove(staging)


def _keep(folder: Path, staging: Path, replaced: Sequence[str]) -> None:
    """Put what stays of a folder into the one that will take its place; until then the first is complete."""
    for path in folder.iterdir() if folder.is_dir() else ():
        new = staging / path.name
        if os.path.lexists(new) or any(fnmatch(path.name, pattern) for pattern in replaced):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, new, symlinks=True, copy_function=_link)
        else:
            _link(path, new)


def _link(path: Path | str, new: Path | str) -> None:
    try:
        os.link(path, new, follow_symlinks=False)
    except OSError:  # a file system without links
        shutil.copy2(path, new, follow_symlinks=False)


def _replace(folder: Path, staging: Path) -> None:
    if not os.path.lexists(folder):
        staging.rename(folder)
        return
    old = _unfinished(folder, _OLD)
    folder.rename(old)
    try:
        staging.rename(folder)
    except BaseException:
        old.rename(folder)
        raise
    with contextlib.suppress(OSError):  # the new folder is complete
        remove(old)


def remove(path: Path) -> None:
    """Remove a file, a folder with all that is in it, or a link without what it points to; or nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# ---- files ----------------------------------------------------------------------------------------------------------


@contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """Yield the path of an empty file next to ``path``; when the context ends without an error, it replaces ``path``.

    The bytes are forced to the disk before the file gets its name, so a file under that name is complete even after a
    crash of the machine. After an error the old file is still there. The new file has the mode that the umask allows.

    Args:
        path: File to write; its folder is created if necessary.

    Raises:
        OSError: If it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = _unfinished(path)
    handle = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    mode = os.fstat(handle).st_mode & 0o777
    os.close(handle)
    try:
        yield staging
        staging.chmod(mode)  # a library may have replaced it by a file of another mode
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


def require_no_link(path: Path) -> None:
    """Refuse a name under which a file is to be written in place if something else than a file has it.

    Raises:
        OSError: If it is a link, a folder, a device or a pipe.
    """
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        raise OSError(errno.EEXIST, f"{path.name} is a link, or no file", str(path))


def open_to_append(path: Path) -> BinaryIO:
    """Open a file to write at its end, or create it; a link under its name is not followed.

    Raises:
        OSError: If it cannot be opened, or is no file.
    """
    require_no_link(path)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    return os.fdopen(os.open(path, flags, 0o666), "ab")


def writable_path(output: Path, argument: str = "output") -> Path:
    """Return the path to write so that ``output`` is replaced: a link's target instead of the link.

    Args:
        output: The file to write; a leading ``~`` is the home folder.
        argument: The user's name for it, for messages.

    Raises:
        UserError: If it exists and is not a file, or is a pattern: under that name it would hide the files that match.
    """
    output = Path(expanded(output))
    if is_pattern(output):
        raise UserError(f"{argument}: expected a file to write, got the pattern {str(output)!r}")
    if output.is_dir():
        raise UserError(f"{argument}: expected a file to write, got the folder {str(output)!r}")
    if output.exists() and not output.is_file():
        raise UserError(f"{argument}: expected a file to write, got {str(output)!r}, which is a device or a pipe")
    return output.resolve() if output.is_symlink() else output


def require_other_files(
    outputs: Mapping[str, Path | str | None], inputs: Mapping[str, Sequence[Path | str | None]]
) -> None:
    """Refuse a file to write that another argument names too: it would be lost, before it is read or after.

    Args:
        outputs: The files to write, by the user's names for them; None for none.
        inputs: The files to read, by what messages call them; None for none.

    Raises:
        UserError: For the first.
    """
    taken = {real_path(path): name for name, paths in inputs.items() for path in paths if path is not None}
    for name, path in outputs.items():
        if path is None:
            continue
        if (other := taken.get(target := real_path(path))) is not None:
            raise UserError(f"{name}: expected another file than {other}, got {str(path)!r}")
        taken[target] = f"--{name}"


def files_of_options(flag: str, options: Mapping[str, Any] | None) -> dict[str, list[str]]:
    """Return the texts among options, which may name files, for :func:`require_other_files`.

    Args:
        flag: What the user writes before a dot and the name of an option.
        options: The options; None for none.
    """
    return {f"{flag}.{name}": [value] for name, value in (options or {}).items() if isinstance(value, str)}


def real_path(path: Path | str) -> str:
    """Return a path without links, whatever the text: one with a null byte, which names no file, unchanged."""
    return str(path) if "\0" in str(path) else os.path.realpath(expanded(path))


def require_writable(path: Path, room: int = 0) -> None:
    """Try whether a file could be written, and leave nothing behind.

    Args:
        path: The file. Its folder need not exist.
        room: Bytes that the disk must have room for.

    Raises:
        OSError: If the folder is no folder or read-only, the name is too long for it, or the disk is full.
    """
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    # A name as long as the temporary ones.
    is_there = folder == path.absolute().parent
    probe = _unfinished(path.absolute().with_name(f"{path.name}.progress.json") if is_there else folder / "new")
    handle = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(bytes(room))
            file.flush()
            os.fsync(handle)
    finally:
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
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, got a {type(value).__name__}")
    return value


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file in one step: at any moment it holds either the old or the new content.

    Raises:
        OSError: If it cannot be written.
    """
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file in one step, as :func:`write_json`.

    Raises:
        OSError: If it cannot be written.
    """
    with staged_file(path) as staging:
        staging.write_text(text, encoding="utf-8")
