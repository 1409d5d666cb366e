"""The rows of a decoder's state: one for each open block of each request of a batch."""

from collections.abc import Sequence
from dataclasses import dataclass

from dmaxlit.engine.request import Request


@dataclass(frozen=True)
class BlockRow:
    """One open block.

    Args:
        index: Index of the prompt.
        start: Position at which the block begins.
        prompt_tail: Prompt tokens inside the block.
    """

    index: int
    start: int
    prompt_tail: list[int]

    @property
    def key(self) -> tuple[int, int]:
        """What tells the block from all others of the call."""
        return self.index, self.start


class BlockRows:
    """The open blocks of a batch: those behind the front blocks, request by request, then the front blocks.

    Args:
        batch: The requests, each with the blocks that are open now.

    Attributes:
        rows: The blocks.
        num_behind: How many of them are behind a front block.
        prompt_indices: Index of the prompt of each.
        starts: Position at which each begins.
    """

    def __init__(self, batch: Sequence[Request]) -> None:
        behind = [BlockRow(request.index, start, []) for request in batch for start in request.open_starts[1:]]
        front = [BlockRow(request.index, request.block_start, request.prompt_tail) for request in batch]
        self.rows = behind + front
        self.num_behind = len(behind)
        self.prompt_indices = [block.index for block in self.rows]
        self.starts = [block.start for block in self.rows]
        self._row_of = {block.key: row for row, block in enumerate(self.rows)}

    def row_of(self, index: int, start: int) -> int:
        """Return the row of a block, by the index of its prompt and the position at which it begins."""
        return self._row_of[index, start]

    def find(self, index: int, start: int) -> int | None:
        """Return the row of a block, or None if it is not among these."""
        return self._row_of.get((index, start))

    def sources(self, previous: "BlockRows") -> list[int | None]:
        """Return for each block its row in ``previous``, or None if it is new."""
        return [previous.find(*block.key) for block in self.rows]
