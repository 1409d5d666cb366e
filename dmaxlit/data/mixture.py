"""Several corpora in shares of their own: their rows in one data set, and which of them an epoch has."""

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dmaxlit.data.dataset import Item, PackedPairs
from dmaxlit.errors import UserError
from dmaxlit.randomness import stable_seed


def check_weights(weights: Sequence[float] | None, number: int) -> None:
    """Refuse weights that are not one positive number for each corpus; None passes.

    Args:
        weights: The weights.
        number: Number of corpora.

    Raises:
        UserError: If so.
    """
    if weights is None:
        return
    if not number:
        raise UserError(f"weights: expected none without a corpus, got {list(weights)}")
    if len(weights) != number or not all(0 < weight < inf for weight in weights):
        raise UserError(f"weights: expected a positive number for each corpus, {number} in all, got {list(weights)}")


class MixedPairs(Dataset[Item]):
    """The rows of several corpora, one behind the other.

    A number from ``len`` on is a row that comes again: of n rows, ``i + n``, ``i + 2n`` and so on are row i too.

    Args:
        corpora: The encoded rows of each.
    """

    def __init__(self, corpora: Sequence[PackedPairs]) -> None:
        self.corpora = list(corpora)
        self._starts = [0, *accumulate(map(len, self.corpora))]

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> Item:
        """Return (number as asked for, ids, length of the prompt)."""
        number, position = self.place(index)
        _, ids, prompt_length = self.corpora[number][position]
        return index, ids, prompt_length

    def place(self, index: int) -> tuple[int, int]:
        """Return the number of a row's corpus, and its index there."""
        row = index % len(self)
        number = bisect_right(self._starts, row) - 1
        return number, row - self._starts[number]

    def fingerprint(self) -> str:
        """Return the number of rows and a checksum: the same for the same corpora in the same order."""
        prints = "\n".join(corpus.fingerprint() for corpus in self.corpora)
        return f"{len(self)} rows, {hashlib.sha256(prints.encode()).hexdigest()[:16]}"

    def lengths(self) -> Tensor:
        """Return the number of tokens of every row, ``[rows]``, int32."""
        return torch.cat([corpus.lengths() for corpus in self.corpora])


@dataclass(frozen=True)
class Mixture:
    """The rows of each epoch, which has as many as all corpora together.

    Every corpus has its share of them. Its rows come in one shuffled round after the other, which go on from epoch to
    epoch: none comes a second time before all came once.

    Args:
        sizes: Number of rows of each corpus.
        weights: Its share, relative to the others'.

    Raises:
        UserError: If a share gives its corpus no row.
    """

    sizes: Sequence[int]
    weights: Sequence[float]

    def __post_init__(self) -> None:
        """Refuse shares without a row, which would be without one in every epoch."""
        if 0 in (counts := self.counts()):
            expected = f"a share of each corpus that gives it a row of the {sum(self.sizes)} in an epoch"
            raise UserError(f"weights: expected {expected}, got {list(self.weights)}, with {counts} rows")

    def counts(self) -> list[int]:
        """Return the number of rows of each corpus in an epoch; what rounding leaves goes to the largest remainders."""
        rows, total = sum(self.sizes), sum(self.weights)
        exact = [rows * weight / total for weight in self.weights]
        counts = [int(share) for share in exact]
        by_remainder = sorted(range(len(exact)), key=lambda number: (counts[number] - exact[number], number))
        for number in by_remainder[: rows - sum(counts)]:
            counts[number] += 1
        return counts

    def order(self, seed: int, epoch: int) -> Tensor:
        """Return the rows of an epoch, shuffled, as numbers of :class:`MixedPairs`.

        A row of the corpus's k-th round, from 0, has k times the number of all rows added to its own: a row that comes
        several times in an epoch has another number, and with it other noise, each time.

        Args:
            seed: Seed of the order.
            epoch: The epoch, from 0.
        """
        begin, chosen, total = 0, [], sum(self.sizes)
        for number, (size, count) in enumerate(zip(self.sizes, self.counts(), strict=True)):
            first, end = epoch * count, (epoch + 1) * count
            for lap in range(first // size, -(-end // size)):
                rows = _permutation(size, "mixture", seed, number, lap)
                chosen.append(lap * total + begin + rows[max(first - lap * size, 0) : end - lap * size])
            begin += size
        rows = torch.cat(chosen)
        return rows[_permutation(len(rows), "order", seed, epoch)]


def _permutation(size: int, *keys: object) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(stable_seed(*keys)))
