"""The encoded rows that a run learns from, and their order."""

from collections.abc import Sequence

from torch import Tensor

from dmaxlit.data.corpora import Corpora
from dmaxlit.data.dataset import Collate, PackedPairs
from dmaxlit.data.encoded_corpus import encoded_corpus
from dmaxlit.data.mixture import MixedPairs, Mixture
from dmaxlit.data.row_encoding import RowEncoder
from dmaxlit.data.sampling import LengthGroupedSampler, OrderedRowSampler, RowSampler
from dmaxlit.data.token_batches import TokenBatchSampler, check_lengths
from dmaxlit.errors import UserError


class TrainingRows:
    """Encoded rows of one or more corpora.

    Args:
        corpora: One, or with weights one for each.
        weights: Share of each corpus in an epoch, relative to the others'. Default: each row comes once.
        encoder: Encodes the rows.
        cache_dir: Folder of the cache; see :func:`~dmaxlit.data.encoded_corpus.encoded_corpus`.
        num_proc: Number of processes that encode for the cache.

    Raises:
        UserError: If a corpus cannot be read or has a row that cannot be used.
    """

    def __init__(
        self,
        corpora: Sequence[Corpora],
        weights: Sequence[float] | None,
        encoder: RowEncoder,
        cache_dir: str | None,
        num_proc: int | None,
    ) -> None:
        encoded = [encoded_corpus(corpus, encoder, cache_dir, num_proc) for corpus in corpora]
        self.pairs: PackedPairs | MixedPairs = encoded[0] if weights is None else MixedPairs(encoded)
        self._mixture = None if weights is None else Mixture([len(pairs) for pairs in encoded], weights)
        self._corpora, self._encoded, self._block_length = corpora, encoded, encoder.block_length

    def __len__(self) -> int:
        return len(self.pairs)

    def check(self, world_size: int, max_tokens: int | None) -> None:
        """Refuse rows of which no batches can be made; see :meth:`sampler`.

        Raises:
            UserError: If there are fewer rows than ranks, or rows longer than ``max_tokens``.
        """
        if len(self) < world_size:
            raise UserError(f"corpus: expected at least one row for each of {world_size} ranks, found {len(self)}")
        if max_tokens is not None:
            check_lengths(self._whole_lengths(), max_tokens)

    def sampler(
        self,
        batch_size: int,
        world_size: int,
        rank: int,
        seed: int,
        keeps_order: bool,
        group_by_length: bool,
        max_tokens: int | None = None,
    ) -> RowSampler:
        """Return the order of one rank's rows.

        Args:
            batch_size: Rows in one rank's batch.
            world_size: Number of ranks.
            rank: This rank.
            seed: Seed of the order.
            keeps_order: Take every row once, in the order of the corpora.
            group_by_length: Shuffle so that the rows of a batch have similar lengths.
            max_tokens: Make batches of as many rows, up to ``batch_size``, as fit so many tokens.

        Raises:
            UserError: If no batches can be made of them; see :meth:`check`.
        """
        self.check(world_size, max_tokens)
        if max_tokens is not None:
            return TokenBatchSampler(self._whole_lengths(), max_tokens, batch_size, world_size, rank, seed)
        shape = batch_size, world_size, rank
        if keeps_order:
            return OrderedRowSampler(len(self), *shape, even=True)
        if group_by_length:
            return LengthGroupedSampler(self.pairs.lengths(), *shape, seed, self._mixture)
        return RowSampler(len(self), *shape, seed=seed, mixture=self._mixture)

    def first(self, collate: Collate, number: int) -> dict[str, Tensor]:
        """Return the first rows as a batch, in the order of the corpora; fewer if there are no more.

        Args:
            collate: Makes a batch of rows.
            number: Number of rows.
        """
        return collate([self.pairs[index] for index in range(min(number, len(self)))])

    def fingerprint(self) -> str:
        """Return the number of rows and a checksum of their tokens."""
        return self.pairs.fingerprint()

    def places(self, indices: Sequence[int]) -> list[str]:
        """Return the file and row of rows; this reads the corpora again.

        Args:
            indices: Numbers of rows, as in a batch's ``index``.
        """
        places = dict.fromkeys(indices, "")
        for number, (corpus, pairs) in enumerate(zip(self._corpora, self._encoded, strict=True)):
            inside = {index: place for index in places if (place := self._place(index))[0] == number}
            found = corpus.places([pairs.number(position) for _, position in inside.values()]) if inside else []
            places.update(zip(inside, found, strict=True))
        return [places[index] for index in indices]

    def _whole_lengths(self) -> Tensor:
        """Return the tokens of each row with what fills its last block, ``[rows]``."""
        block = self._block_length
        return (self.pairs.lengths() + block - 1) // block * block

    def _place(self, index: int) -> tuple[int, int]:
        return self.pairs.place(index) if isinstance(self.pairs, MixedPairs) else (0, index)
