"""The files that a source of records names: one, those of a folder, or those that match a pattern."""

import glob
import os
from pathlib import Path

from dmaxlit.errors import UserError

_TEXT_SUFFIXES = (".jsonl", ".json", ".ndjson")
_BESIDE = (".manifest.json", ".progress.json", ".partial", ".lock")  # written next to files of records
EXPECTED = "a .jsonl, .json or .parquet file"


def record_suffix(source: str) -> str | None:
    """Return the suffix of a file of records, without ``.gz`` where it may be compressed; None for any other name."""
    name = source.lower()
    suffixes = [".parquet", *(text + end for text in _TEXT_SUFFIXES for end in ("", ".gz"))]
    return next((suffix.removesuffix(".gz") for suffix in suffixes if name.endswith(suffix)), None)


def is_collection(source: str) -> bool:
    """Return whether a source is a folder or a pattern (``data/*.jsonl``)."""
    return os.path.isdir(source) or (glob.has_magic(source) and not os.path.exists(source))


def files_of(source: str, argument: str) -> list[Path]:
    """Return the files of records in a folder, at any depth, or that match a pattern, sorted by their paths.

    Hidden files, and what is written next to an unfinished or finished corpus, are left out.

    Args:
        source: A folder, or a pattern as of a shell, in which ``**`` stands for folders at any depth.
        argument: The user's name for it, for messages.

    Raises:
        UserError: If there are none, or a pattern matches a file of another kind.
    """
    root = Path(source)
    is_folder = root.is_dir()
    found = root.rglob("*") if is_folder else map(Path, glob.glob(source, recursive=True))
    files = sorted({path for path in found if path.is_file() and not path.name.endswith(_BESIDE)})
    if is_folder:
        files = [path for path in files if not any(part.startswith(".") for part in path.relative_to(root).parts)]
        files = [path for path in files if record_suffix(path.name) is not None]
    for path in files:
        if record_suffix(path.name) is None:
            raise UserError(f"{argument}: expected {EXPECTED}, got {str(path)!r}, which {source!r} matches")
    if not files:
        raise UserError(f"{argument}: expected {EXPECTED} in {source!r}, found none")
    return files
