"""The shards of a streamed corpus, its files or those of a hub data set, each read from any row on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dmaxlit.errors import UserError, reason_of
from dmaxlit.tasks.records import BadRows, is_hub_id, open_parquet, read_records, stream_from_hub
from dmaxlit.tasks.sources import files_of, is_collection, record_suffix

if TYPE_CHECKING:
    from datasets import IterableDataset

State = dict[str, Any]
"""How far a shard has been read, as plain values; empty for its beginning."""

_AT_ONCE = 100  # rows that are taken from a table together


class Shard(Protocol):
    """A part of a corpus that is read from its beginning to its end."""

    @property
    def identity(self) -> list[Any]:
        """What tells the shard from others without reading it, as plain values."""

    def records(self, bad: BadRows, begin: Mapping[str, Any]) -> Iterator[tuple[str, Any, State]]:
        """Yield location and content of each record, and the state behind it.

        Args:
            bad: Receives lines that are not JSON, and plain texts that are not UTF-8.
            begin: Such a state.

        Raises:
            UserError: If the shard cannot be read.
        """


@dataclass(frozen=True)
class TextShard:
    """A file of JSON or of plain text. To go on in it, the rows before are read again.

    Args:
        path: The file.
    """

    path: Path

    @property
    def identity(self) -> list[Any]:
        """Name and size of the file."""
        return [self.path.name, self.path.stat().st_size]

    def records(self, bad: BadRows, begin: Mapping[str, Any]) -> Iterator[tuple[str, Any, State]]:
        """Yield location and content of each record, and the number of records up to it."""
        first, counts = begin.get("rows", 0), bad.counts.copy()
        for number, (location, record) in enumerate(read_records(str(self.path), "", bad, texts=True), start=1):
            if number > first:
                yield location, record, {"rows": number}
            elif number == first:
                bad.counts = counts  # without the lines before, which the run has counted when it read them first


@dataclass(frozen=True)
class TableShard:
    """A Parquet file, or a file of a hub data set, read through ``datasets``.

    To go on in it, ``datasets`` skips the tables before; the file's beginning may have to be fetched again.

    Args:
        name: Beginning of the location of a row.
        identity: See :class:`Shard`.
        open: Returns the data set, of one shard.
    """

    name: str
    identity: list[Any]
    open: "Callable[[], IterableDataset]"

    def records(self, bad: BadRows, begin: Mapping[str, Any]) -> Iterator[tuple[str, Any, State]]:
        """Yield location and content of each record, and the state of the data set."""
        rows, skipped = begin.get("rows", 0), begin.get("taken", 0)
        try:
            table = self.open()
            if begin:
                table.load_state_dict(begin["table"])
            before = begin.get("table") or table.state_dict()
            # Not row by row: in a worker process `iter` would divide the shards among the loader's workers.
            for columns in table.iter(batch_size=_AT_ONCE):
                records = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
                for taken, record in enumerate(records[skipped:], start=skipped + 1):
                    rows += 1
                    yield f"{self.name}, row {rows}", record, {"rows": rows, "taken": taken, "table": before}
                skipped, before = 0, table.state_dict()
        except UserError:
            raise
        except Exception as error:
            reason = reason_of(error, with_type=True)
            raise UserError(f"corpus: cannot read {self.name!r} after row {rows}: {reason}") from error


def shards_of(sources: Sequence[str], hub_split: str) -> list[Shard]:
    """Return the shards of corpora, in order.

    Args:
        sources: Corpora; see :func:`~dmaxlit.data.corpus_reader.read_corpus`.
        hub_split: Split of hub data sets.

    Raises:
        UserError: If there is no such file or data set.
    """
    shards: list[Shard] = []
    for source in sources:
        if is_hub_id(source, texts=True):
            shards += _shards_of_hub(source, hub_split)
        else:
            files = files_of(source, "corpus", texts=True) if is_collection(source) else [Path(source)]
            shards += map(_shard_of_file, files)
    return shards


def _shard_of_file(path: Path) -> Shard:
    if not path.is_file():
        raise UserError(f"corpus: no such file: {str(path)!r}")
    if record_suffix(path.name) != ".parquet":
        return TextShard(path)
    return TableShard(str(path), [path.name, path.stat().st_size], partial(open_parquet, path))


def _shards_of_hub(source: str, split: str) -> list[Shard]:
    table, files = stream_from_hub(source, split)
    number = table.num_shards
    names = [f"{source}, split {split}"]
    if number > 1:
        names = [f"{names[0]}, shard {index + 1}" for index in range(number)]
    return [
        TableShard(name, [name, files], partial(table.shard, num_shards=number, index=index))
        for index, name in enumerate(names)
    ]
