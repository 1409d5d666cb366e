"""Batches of as many rows as fit a number of tokens."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from dmaxlit.data.sampling import RowSampler
from dmaxlit.errors import UserError, check_at_least
from dmaxlit.randomness import stable_seed


def check_max_tokens(max_tokens: int | None, group_by_length: bool, weights: Sequence[float] | None) -> None:
    """Refuse a number of tokens that is out of range, or options that it excludes.

    Args:
        max_tokens: Most tokens of a batch; None for batches of a number of rows.
        group_by_length: Whether rows of similar lengths are grouped.
        weights: Share of each corpus; None for none.

    Raises:
        UserError: If there is such a number or option.
    """
    check_at_least(1, max_tokens=max_tokens)
    if max_tokens is None:
        return
    if group_by_length:
        other = "group_by_length, for its batches are of similar lengths"
    elif weights is not None:
        other = "weights, since epochs differ in rows then"
    else:
        return
    raise UserError(f"max_tokens: expected none with {other}, got {max_tokens}")


def check_batches(max_tokens: int | None, block_length: int, keeps_order: bool) -> None:
    """Refuse a number of tokens with which no batches can be made, whatever the rows are.

    Args:
        max_tokens: Most tokens of a batch; None for batches of a number of rows.
        block_length: Length of the blocks of the grid.
        keeps_order: Whether rows keep the order of the corpus.

    Raises:
        UserError: If no row can be as short, or the order is kept.
    """
    if max_tokens is None:
        return
    if keeps_order:
        raise UserError("max_tokens: expected none with overfit_batches, which keeps the order of the rows")
    if max_tokens < block_length:
        raise UserError(f"max_tokens: expected at least one block of {block_length}, got {max_tokens}")


def check_lengths(lengths: Tensor, max_tokens: int) -> None:
    """Refuse rows that no batch has room for.

    Args:
        lengths: ``[rows]`` tokens of each row, in whole blocks.
        max_tokens: Most tokens of a batch.

    Raises:
        UserError: If there are such rows.
    """
    if too_long := int((lengths > max_tokens).sum()):
        raise UserError(
            f"max_tokens: expected at least {int(lengths.max())}, the tokens of the longest row with its last "
            f"block, got {max_tokens}, which {too_long} of {len(lengths)} rows exceed; max_length bounds rows"
        )


class TokenBatchSampler(RowSampler):
    """Batches of row numbers of one rank, of no more than so many tokens with their padding.

    The rows of an epoch are shuffled, sorted by length, the longest first, and cut into batches. Lengths alone decide
    where, so that all epochs have the same number of batches; which rows of a length share one, and the order of the
    batches, are functions of the seed and the epoch. Rank r of w takes every w-th batch, beginning with batch r: the
    k-th batches of all ranks are those that one process accumulates w of.

    What is left at the end of an epoch, fewer batches than ranks, is divided further, so that each rank has one. Only
    where there may be too few rows for that, it is left out. The last batch is one with the most rows, to make that
    rare.

    Args:
        lengths: ``[rows]`` tokens of each row, in whole blocks.
        max_tokens: Most tokens of a batch: its rows times the longest of them.
        max_rows: Most rows of a batch.
        num_replicas: Number of ranks, w.
        rank: This rank, r.
        seed: Seed of the order.

    Raises:
        UserError: If rows are longer than ``max_tokens``.
    """

    yields_batches = True

    def __init__(
        self, lengths: Tensor, max_tokens: int, max_rows: int, num_replicas: int = 1, rank: int = 0, seed: int = 0
    ) -> None:
        super().__init__(len(lengths), max_rows, num_replicas, rank, seed=seed)
        check_lengths(lengths, max_tokens)
        self._lengths, self._max_tokens = lengths, max_tokens
        self._cuts = self._cut()
        counts = self._cuts.diff(dim=1).flatten()
        self._widest = int(counts.argmax())
        ragged = len(counts) % num_replicas
        fewest = counts[self._widest] + counts.sort().values[: max(ragged - 1, 0)].sum()
        self._divides_rest = bool(ragged) and int(fewest) >= num_replicas
        self._known: tuple[int, Tensor] = (-1, torch.empty(0))

    def __len__(self) -> int:
        """Return the number of this rank's batches in an epoch."""
        return len(self._cuts) // self.num_replicas + self._divides_rest

    def __iter__(self) -> Iterator[Any]:
        """Yield the rows of each of this rank's batches in the current epoch, from ``first_batch`` on."""
        rows = self._sorted_rows()
        spans = self._spans()[self.rank :: self.num_replicas][self.first_batch :]
        for begin, end in spans.tolist():
            yield rows[begin:end].tolist()

    def slots(self, batch: int, first: int, window: int) -> tuple[list[int], int]:
        """Return the index of each row of a batch of this rank among all rows of its step, and the number of these.

        Args:
            batch: Index of the batch in the current epoch.
            first: Index of the step's first batch.
            window: Number of the step's batches on this rank.
        """
        world = self.num_replicas
        counts = self._spans()[first * world : (first + window) * world].diff(dim=1).flatten().tolist()
        number = (batch - first) * world + self.rank
        before = sum(counts[:number])
        return list(range(before, before + counts[number])), sum(counts)

    def position(self, batches: int) -> dict[str, int]:
        """Return how far an epoch has come, after some of this rank's batches; see :meth:`batches_until`."""
        ranks = {"ranks": self.num_replicas}
        return {"batches": batches, **ranks, "max_tokens": self._max_tokens, "max_rows": self.batch_size}

    def batches_until(self, position: dict[str, int]) -> int:
        """Return the number of this rank's batches up to a position, also of a run on another number of ranks.

        Raises:
            UserError: If batches were made in another way there.
        """
        for name, argument in (("max_tokens", "max_tokens"), ("max_rows", "batch_size")):
            if position.get(name) != (here := self.position(0)[name]):
                raise UserError(f"{argument}: expected {position.get(name)}, as in the run that is resumed, got {here}")
        return min(-(-position["batches"] * position["ranks"] // self.num_replicas), len(self))

    def _cut(self) -> Tensor:
        """Return begin and end of each batch among the sorted rows, ``[batches, 2]``."""
        lengths, spans, begin = self._lengths.sort(descending=True).values, [], 0
        while begin < len(lengths):
            end = begin + min(self._max_tokens // int(lengths[begin]), self.batch_size)
            spans.append((begin, min(end, len(lengths))))
            begin = end
        return torch.tensor(spans)

    def _sorted_rows(self) -> Tensor:
        rows = self._order()
        return rows[self._lengths[rows].sort(descending=True, stable=True).indices]

    def _spans(self) -> Tensor:
        """Return begin and end of the batches of the current epoch, of all ranks, in their order, ``[batches, 2]``."""
        epoch, spans = self._known
        if epoch != self.epoch:
            generator = torch.Generator().manual_seed(stable_seed("batches", self.seed, self.epoch))
            order = torch.randperm(len(self._cuts), generator=generator)
            order = torch.cat([order[order != self._widest], torch.tensor([self._widest])])
            spans = self._even(self._cuts[order])
            self._known = self.epoch, spans
        return spans

    def _even(self, spans: Tensor) -> Tensor:
        """Divide the batches behind the last whole round of ranks, or leave them out."""
        whole = len(spans) - len(spans) % self.num_replicas
        rest = spans[whole:].tolist() if self._divides_rest else []
        while 0 < len(rest) < self.num_replicas:
            number = max(range(len(rest)), key=lambda one: rest[one][1] - rest[one][0])
            begin, end = rest[number]
            middle = (begin + end) // 2
            rest[number : number + 1] = [[begin, middle], [middle, end]]
        return torch.cat([spans[:whole], torch.tensor(rest)]) if rest else spans[:whole]
