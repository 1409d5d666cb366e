"""The batches of one rank from a stream of rows that all ranks read, by one process of its loader."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from dmaxlit.data.corpus_reader import Row
from dmaxlit.data.dataset import Collate, Item, PackedPairs
from dmaxlit.data.row_encoding import RowEncoder
from dmaxlit.data.row_stream import RowStream
from dmaxlit.errors import UserError
from dmaxlit.tasks.records import BadRows

_AT_ONCE = 64  # rows that are encoded together, at least


@dataclass(frozen=True)
class Delivery:
    """A batch with what belongs to it, or what else a loader is to know.

    Args:
        batch: ``ids``, ``roles`` and ``index``; None for none.
        locations: File and row of each of its rows.
        state: Where the batch behind it begins.
        notes: Lines for the user.
        error: Why there is no further batch; empty if there is no reason but the end of the epoch.
    """

    batch: dict[str, Tensor] | None = None
    locations: list[str] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    error: str = ""


def first_state(epoch: int) -> dict[str, Any]:
    """Return the state in which an epoch begins."""
    return {"epoch": epoch, "sequence": 0, "chunk": None}


class StreamedBatches(IterableDataset[Delivery]):
    """The batches of one rank.

    All ranks read all rows, and each encodes its own. The global batches, of ``batch_size`` sequences for each of w
    ranks, and which rank has a row are those of :class:`~dmaxlit.data.sampling.RowSampler`: rank r has every w-th
    sequence, from number r on, and all ranks have the same number of batches. So nothing depends on how many shards
    there are. Where only the encoding says whether a row becomes one sequence (plain texts, or rows that may be
    skipped), every rank encodes all rows. Processes of a loader divide the batches among them in turn.

    Args:
        stream: The rows.
        encoder: Encodes them.
        collate: Makes a batch of sequences.
        batch_size: Sequences in one rank's batch.
        world_size: Number of ranks, w.
        rank: This rank.

    Attributes:
        begin: Where the next iteration begins: a state of :class:`Delivery`, or of :func:`first_state`.
    """

    def __init__(
        self, stream: RowStream, encoder: RowEncoder, collate: Collate, batch_size: int, world_size: int, rank: int
    ) -> None:
        self.stream, self.encoder, self.collate = stream, encoder, collate
        self.batch_size, self.world_size, self.rank = batch_size, world_size, rank
        self.begin = first_state(0)

    def __iter__(self) -> Iterator[Delivery]:
        """Yield the batches of the epoch of ``begin``, from there on; a mistake of the user's as the last item."""
        worker = get_worker_info()
        number, of = (0, 1) if worker is None else (worker.id, worker.num_workers)
        try:
            yield from _Reading(self, number, of).deliveries()
        except UserError as error:  # raised here, it would reach the main process with a traceback in its message
            yield Delivery(error=str(error))


class _Reading:
    """The way of one process through an epoch."""

    def __init__(self, batches: StreamedBatches, worker: int, num_workers: int) -> None:
        self._batches, self._worker, self._num_workers = batches, worker, num_workers
        self._epoch: int = batches.begin["epoch"]
        self._first: int = batches.begin["sequence"]
        self._chunk: dict[str, Any] | None = batches.begin["chunk"]
        self._next = 0 if self._chunk is None else self._chunk["sequence"]
        self._size = batches.batch_size * batches.world_size  # of a global batch
        self._bad = BadRows(batches.encoder.on_bad_row)
        self._kept = self._noted = 0
        self._own: list[tuple[Item, str]] = []
        self._notes: list[str] = []

    def deliveries(self) -> Iterator[Delivery]:
        for rows in self._chunks():
            own, number = self._encoded(rows)
            for sequence in range(self._next, self._next + number):
                self._own += [own[sequence]] if sequence in own else []
                if sequence >= self._first and not (sequence + 1 - self._first) % self._size:
                    yield from self._delivery(sequence)
            self._next += number
            self._note_skipped(at_end=False)
        self._note_skipped(at_end=True)
        world_size = self._batches.world_size
        if not self._next:
            raise UserError("corpus: expected at least one usable row, found none")
        if self._next < world_size:
            raise UserError(f"corpus: expected at least one row for each of {world_size} ranks, found {self._next}")
        if (self._next - self._first) % self._size >= world_size:
            yield from self._delivery(self._next - 1)
        if self._notes:
            yield Delivery(notes=self._notes)

    def _chunks(self) -> Iterator[Sequence[Row]]:
        """Yield some rows at a time, with the state at their beginning in ``_chunk``."""
        block_state, begin = (None, 0) if self._chunk is None else (self._chunk["block"], self._chunk["row"])
        for block in self._batches.stream.blocks(self._epoch, self._bad, block_state):
            for row in range(begin, len(block.rows), at_once := max(self._size, _AT_ONCE)):
                self._chunk = {"block": block.state, "row": row, "sequence": self._next}
                yield block.rows[row : row + at_once]
            begin = 0

    def _encoded(self, rows: Sequence[Row]) -> tuple[dict[int, tuple[Item, str]], int]:
        """Return this process's sequences of rows by their numbers, and how many sequences all rows have."""
        encoder, numbers = self._batches.encoder, range(self._next, self._next + len(rows))
        if encoder.on_bad_row == "error" and all(row.prompt is not None for row in rows):
            rows = [row for number, row in zip(numbers, rows, strict=True) if self._is_own(number)]
            part, sequences = encoder.encode(rows).part, list(filter(self._is_own, numbers))
            self._kept += len(numbers)
            number = len(numbers)
        else:
            chunk = encoder.encode(rows)
            self._bad.counts.update(chunk.skipped)
            part, number = chunk.part, len(chunk.part)
            sequences = list(range(self._next, self._next + number))
            self._kept += len(set(part.numbers.tolist()))
        pairs = PackedPairs([part])
        own = {}
        for index, sequence in enumerate(sequences):
            if self._is_own(sequence):
                own[sequence] = ((sequence, *pairs[index][1:]), rows[pairs.number(index)].location)
        return own, number

    def _is_own(self, sequence: int) -> bool:
        place = sequence - self._first
        if place < 0 or place // self._size % self._num_workers != self._worker:
            return False
        return place % self._batches.world_size == self._batches.rank

    def _delivery(self, last: int) -> Iterator[Delivery]:
        """Yield the batch whose last sequence over all ranks is ``last``, if it is this process's."""
        if self._own:
            items, locations = zip(*self._own, strict=True)
            state = {"epoch": self._epoch, "sequence": last + 1, "chunk": self._chunk}
            # Not as an item of their own: a loader takes one item of each process in turn.
            notes, self._notes, self._own = self._notes, [], []
            yield Delivery(self._batches.collate(items), list(locations), state, notes)

    def _note_skipped(self, at_end: bool) -> None:
        """Add a line on the rows that are skipped, in the first epoch, whenever they have become twice as many."""
        skipped = self._bad.counts.total()
        if self._worker == 0 and self._epoch == 0 and skipped > self._noted and (at_end or skipped >= 2 * self._noted):
            self._noted = skipped
            since = f", since its row {self._first + 1}" if self._first else ""
            self._notes = [f"{self._bad.summary(self._kept)}{since}"]
