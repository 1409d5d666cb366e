"""The files that a source of records or texts names: one, those of a folder, or those that match a pattern."""

import glob
import os
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from dmaxlit.errors import UserError
from dmaxlit.files import expanded, is_pattern, real_path
from dmaxlit.tasks.text_files import COMPRESSED

_TEXT_SUFFIXES = (".jsonl", ".json", ".ndjson")
_FILE_OPTIONS = ("path", "train", "val", "test")  # of tasks
_BESIDE = (".manifest.json", ".progress.json", ".partial", ".lock")  # written next to files of records


def record_suffix(source: str) -> str | None:
    """Return the suffix of a file of records, without that of a compressed text; None for any other name."""
    name = source.lower()
    if name.endswith(".parquet"):
        return ".parquet"
    return next((suffix for suffix in _TEXT_SUFFIXES if _uncompressed(name).endswith(suffix)), None)


def is_text_file(source: str) -> bool:
    """Return whether a name is that of a plain text (``.txt``, ``.txt.gz``, ``.txt.zst``)."""
    return _uncompressed(source.lower()).endswith(".txt")


def _uncompressed(name: str) -> str:
    return next((name.removesuffix(end) for end in COMPRESSED if name.endswith(end)), name)


def expected_files(texts: bool) -> str:
    """Return in words what files a source names, for messages.

    Args:
        texts: Whether plain texts are among them.
    """
    return "a .jsonl, .json, .parquet or .txt file" if texts else "a .jsonl, .json or .parquet file"


def held_out_path(corpus: Path) -> Path:
    """Return the path of the prompts that ``distill`` held out of a corpus: ``c.held_out.jsonl`` for ``c.jsonl``."""
    return corpus.with_name(f"{corpus.stem}.held_out{corpus.suffix}")


def is_collection(source: str) -> bool:
    """Return whether a source is a folder or a pattern (``data/*.jsonl``)."""
    return os.path.isdir(source) or is_pattern(source)


def files_of(source: str, argument: str, texts: bool = False) -> list[Path]:
    """Return the files of records in a folder, at any depth, or that match a pattern, sorted by their paths.

    Hidden files, and what is written next to an unfinished or finished corpus, are left out; also the prompts held out
    of a corpus that is among the files.

    Args:
        source: A folder, or a pattern as of a shell, in which ``**`` stands for folders at any depth.
        argument: The user's name for it, for messages.
        texts: Whether plain texts count too.

    Raises:
        UserError: If there are none, a pattern matches a file of another kind, or there are both records and plain
            texts, which may be notes on the records.
    """
    expected = expected_files(texts)

    def counts(path: Path) -> bool:
        return record_suffix(path.name) is not None or (texts and is_text_file(path.name))

    root = Path(source)
    is_folder = root.is_dir()
    matches = root.rglob("*") if is_folder else map(Path, glob.glob(source, recursive=True))
    found = {path for path in matches if path.is_file() and not path.name.endswith(_BESIDE)}
    files = sorted(found - set(map(held_out_path, found)))
    if is_folder:
        files = [path for path in files if not any(part.startswith(".") for part in path.relative_to(root).parts)]
        files = [path for path in files if counts(path)]
    for path in files:
        if not counts(path):
            raise UserError(f"{argument}: expected {expected}, got {str(path)!r}, which {source!r} matches")
    if not files:
        raise UserError(f"{argument}: expected {expected} in {source!r}, found none")
    kinds = {is_text_file(path.name): str(path) for path in reversed(files)}
    if len(kinds) > 1:
        raise UserError(
            f"{argument}: expected files of rows or of plain text in {source!r}, got {kinds[False]!r} and "
            f"{kinds[True]!r}; a pattern such as '*.jsonl' names one kind"
        )
    return files


def require_outside(
    outputs: Mapping[str, Path | str | None],
    inputs: Mapping[str, str | None],
    task_flag: str,
    task_options: Mapping[str, Any] | None,
) -> None:
    """Refuse a file to write that would be among the files of a folder or pattern to read: the next run would read it.

    Args:
        outputs: The files to write, by the user's names for them; None for none.
        inputs: The sources to read, by what messages call them; None for none.
        task_flag: What the user writes before a dot and the name of an option of the task.
        task_options: Options of the task, some of which may be sources; None for none.

    Raises:
        UserError: For the first.
    """
    of_task = {f"{task_flag}.{name}": (task_options or {}).get(name) for name in _FILE_OPTIONS}
    for name, path in outputs.items():
        for other, source in {**inputs, **of_task}.items():
            if path is not None and isinstance(source, str) and _would_read(expanded(source), path):
                raise UserError(f"{name}: expected a file that {other} {source!r} does not read too, got {str(path)!r}")


def _would_read(source: str, path: Path | str) -> bool:
    """Return whether a folder or pattern would have a file of that path among its files, if there was one."""
    if not is_collection(source):
        return False
    root, file = Path(real_path(source)), Path(real_path(path))
    if not root.is_dir():
        return _matches(file.parts, root.parts)
    is_below = file.is_relative_to(root) and record_suffix(file.name) is not None
    return is_below and not any(part.startswith(".") for part in file.relative_to(root).parts)


def _matches(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    """Return whether the parts of a path match those of a pattern, as in :func:`glob.glob`."""
    if not patterns or not parts:
        return not parts and all(pattern == "**" for pattern in patterns)
    is_hidden = parts[0].startswith(".")
    if patterns[0] == "**":
        return _matches(parts, patterns[1:]) or (not is_hidden and _matches(parts[1:], patterns))
    is_match = fnmatchcase(parts[0], patterns[0]) and (not is_hidden or patterns[0].startswith("."))
    return is_match and _matches(parts[1:], patterns[1:])
