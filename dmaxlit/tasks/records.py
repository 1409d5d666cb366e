"""Records from JSONL, Parquet, plain texts or the hub, with bad ones refused or counted."""

import glob
import logging
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dmaxlit.errors import UserError, check_choice, reason_of
from dmaxlit.files import expanded
from dmaxlit.tasks.sources import expected_files, files_of, is_collection, is_text_file, record_suffix
from dmaxlit.tasks.text_files import open_text, parse_json, rows_of_text
from dmaxlit.tasks.unicode import lone_surrogate

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

OnBadRow = Literal["error", "skip"]

_FIRST = 4096  # characters, in which a file of JSON shows its kind


class Document(str):
    """The whole text of a file, in place of a record."""


class BadRows:
    """Policy for rows that cannot be used, and the count of those skipped.

    Args:
        policy: ``error``: the first one is refused, by file and row number. ``skip``: they are dropped and counted.
    """

    def __init__(self, policy: OnBadRow) -> None:
        check_choice("on_bad_row", policy, ("error", "skip"))
        self.policy = policy
        self.counts: Counter[str] = Counter()

    def add(self, location: str, reason: str, detail: str = "") -> None:
        """Refuse or count one row.

        Args:
            location: File and row.
            reason: What is wrong, in words that many rows share.
            detail: What is particular to this row.

        Raises:
            UserError: Under the policy ``error``.
        """
        if self.policy == "error":
            raise UserError(f"{location}: {reason}{f' ({detail})' if detail else ''}")
        self.counts[reason] += 1

    def summary(self, num_usable: int) -> str:
        """Return one line that says how many rows were skipped and why; empty if none was.

        Args:
            num_usable: Number of rows that were not skipped.
        """
        if not self.counts:
            return ""
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.counts.items()))
        return f"corpus: kept {num_usable} rows, skipped {self.counts.total()}: {reasons}"


def read_records(
    source: str, split: str, bad: BadRows, argument: str = "corpus", texts: bool = False
) -> Iterator[tuple[str, Any]]:
    """Yield every row of a file or hub data set with its location, whatever its columns.

    JSONL is read line by line rather than as a table, so that a bad line has a number, rows may differ in their
    columns, and skipping one does not lose its neighbours. The elements of an array are its rows. Parquet and hub data
    sets are read through ``datasets``.

    Args:
        source: Path of a ``.jsonl``, ``.json`` (rows, or one array of them) or ``.parquet`` file, the first two also
            as ``.gz`` or ``.zst``; a folder of such files or a pattern (``data/*.jsonl``), read in the order of their
            paths; or a hub id, with ``:config`` if the data set has several.
        split: Split of a hub data set.
        bad: Receives lines that are not JSON, and plain texts that are not UTF-8.
        argument: The user's name for the source, for messages.
        texts: Whether plain texts (``.txt``, also compressed) count too; each is one :class:`Document`.

    Raises:
        UserError: If there is no such file or data set, or it cannot be read.
    """
    source = expanded(source)
    if is_collection(source):
        files = files_of(source, argument, texts)
        return (row for file in files for row in _read_file(file, bad, argument))
    if record_suffix(source) is not None or (texts and is_text_file(source)):
        return _read_file(Path(source), bad, argument)
    if not is_hub_id(source, texts):
        expected = expected_files(texts)
        raise UserError(f"{argument}: expected {expected}, a folder of these, or a hub id, got {source!r}")
    return read_table(load_from_hub(source, split, argument), source, split)


def is_hub_id(source: str, texts: bool = False) -> bool:
    """Return whether a source is neither a file of records, nor a folder or pattern, nor another file that exists.

    Args:
        source: See :func:`read_records`.
        texts: Whether plain texts count too.
    """
    is_file = record_suffix(source) is not None or (texts and is_text_file(source))
    return bool(source) and not (is_file or is_collection(source) or os.path.exists(source))


def _read_file(path: Path, bad: BadRows, argument: str) -> Iterator[tuple[str, Any]]:
    if is_text_file(path.name):
        return _read_document(path, bad, argument)
    is_table = record_suffix(path.name) == ".parquet"
    return _read_parquet(path, argument) if is_table else _read_json(path, bad, argument)


def _require_file(path: Path, argument: str) -> None:
    if not os.path.isfile(path):
        raise UserError(f"{argument}: no such file: {str(path)!r}")


def _read_document(path: Path, bad: BadRows, argument: str) -> Iterator[tuple[str, Document]]:
    _require_file(path, argument)
    with open_text(path, argument) as file:
        text = file.read()
    if lone_surrogate(text):  # which stands for bytes that are not UTF-8
        bad.add(str(path), "is not UTF-8")
    else:
        yield str(path), Document(text)


def _read_json(path: Path, bad: BadRows, argument: str) -> Iterator[tuple[str, Any]]:
    _require_file(path, argument)
    if record_suffix(path.name) == ".json" and _is_array(path, argument):
        with open_text(path, argument) as text:
            values = _array(path, text.read(), argument)
        for number, record in enumerate(values, start=1):
            yield f"{path}, row {number}", record
        return
    with open_text(path, argument) as text:
        for number, line in rows_of_text(text):
            location = f"{path}, row {number}"
            try:
                if line is None:
                    raise ValueError("not UTF-8")
                record = parse_json(line)
            except ValueError as error:
                bad.add(location, "is not valid JSON", str(error))
                continue
            yield location, record


def _is_array(path: Path, argument: str) -> bool:
    with open_text(path, argument) as text:
        while characters := text.read(_FIRST):  # not by lines: an array is often one
            if begin := characters.lstrip():
                return begin.startswith("[")
    return False


def _array(path: Path, text: str, argument: str) -> list[Any]:
    try:
        if lone_surrogate(text):
            raise ValueError("not UTF-8")
        values = parse_json(text)
    except ValueError as error:
        raise UserError(f"{argument}: cannot read {str(path)!r}: expected a JSON array ({error})") from error
    return list(values)


def _read_parquet(path: Path, argument: str) -> Iterator[tuple[str, Any]]:
    _require_file(path, argument)
    number = 0
    try:
        for record in open_parquet(path):
            number += 1
            yield f"{path}, row {number}", record
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{argument}: cannot read {str(path)!r} after row {number}: {reason_of(error, with_type=True)}"
        ) from error


def open_parquet(path: Path) -> "IterableDataset":
    """Return the rows of a Parquet file, which are read as they are needed."""
    from datasets import load_dataset

    # By a pattern that matches the file alone, whatever its name. Streamed, so that no second copy is left in a cache.
    return load_dataset("parquet", data_files=glob.escape(str(path)), split="train", streaming=True)


def load_from_hub(source: str, split: str, argument: str = "corpus") -> "Dataset":
    """Return a data set of the hub, mapped from the cache of ``datasets``.

    Args:
        source: Hub id, with ``:config`` if the data set has several.
        split: Its split.
        argument: The user's name for the source, for messages.

    Raises:
        UserError: If there is no such data set, or it cannot be read.
    """
    from datasets import load_dataset

    name, _, config = source.partition(":")
    with _loading(source, split, argument):
        return load_dataset(name, config or None, split=split)


@contextmanager
def _loading(source: str, split: str, argument: str) -> Iterator[None]:
    try:
        with _without_retry_messages():
            yield
    except Exception as error:
        reason = reason_of(error, with_type=True)
        raise UserError(
            f"{argument}: {source!r} is no file, and no hub data set with a split {split!r}: {reason}"
        ) from error


def stream_from_hub(source: str, split: str, argument: str = "corpus") -> "tuple[IterableDataset, list[str]]":
    """Return a data set of the hub whose rows are fetched as they are read, and the addresses of its files.

    These contain the commit of the repository, if the data set consists of files of a known format.

    Args:
        source: Hub id, with ``:config`` if the data set has several.
        split: Its split.
        argument: The user's name for the source, for messages.

    Raises:
        UserError: If there is no such data set, or it cannot be read.
    """
    from datasets import load_dataset_builder

    name, _, config = source.partition(":")
    with _loading(source, split, argument):
        builder = load_dataset_builder(name, config or None)
        table = builder.as_streaming_dataset(split=split)
        return table, [str(file) for file in (builder.config.data_files or {}).get(split, ())]


def read_table(table: "Dataset", source: str, split: str) -> Iterator[tuple[str, Any]]:
    """Yield every row of a data set of the hub with its location.

    Args:
        table: The data set.
        source: Its hub id.
        split: Its split.
    """
    for number, record in enumerate(table, start=1):
        yield f"{source}, split {split}, row {number}", record


@contextmanager
def _without_retry_messages() -> Iterator[None]:
    """Keep the hub's client from two lines for each of its attempts, before the error that says the same."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
