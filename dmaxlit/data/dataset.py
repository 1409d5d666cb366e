"""Encoded rows, in parts of flat arrays, and their collation into batches."""

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dmaxlit.data.encoding import whole_blocks
from dmaxlit.tokens import Role

Item = tuple[int, Tensor, int]


@dataclass(frozen=True)
class Part:
    """Consecutive sequences, concatenated.

    Args:
        ids: ``[tokens]`` token ids of all of them, int32.
        ends: ``[rows]`` end of each in ``ids``, int64.
        prompt_lengths: ``[rows]`` number of prompt tokens of each, int64.
        numbers: ``[rows]`` number of each one's row in the corpus, int64. It is the same for all windows of a text;
            rows that cannot be used leave gaps.
    """

    ids: np.ndarray
    ends: np.ndarray
    prompt_lengths: np.ndarray
    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)


class PackedPairs(Dataset[Item]):
    """Encoded pairs and windows of plain texts: a few arrays for thousands of them, quick to fork and to share.

    Args:
        parts: All of them, in order.
    """

    def __init__(self, parts: Iterable[Part]) -> None:
        self.parts = list(parts)
        self._starts = [0, *accumulate(len(part) for part in self.parts)]

    def __len__(self) -> int:
        return self._starts[-1]

    def fingerprint(self) -> str:
        """Return the number of rows and a checksum of their tokens: the same for the same rows in the same order."""
        digest = hashlib.sha256()
        for part in self.parts:
            digest.update(np.ascontiguousarray(part.ids).data)
        begin = 0
        for part in self.parts:
            digest.update((part.ends + begin).data)
            begin += int(part.ends[-1])
        for part in self.parts:
            digest.update(np.ascontiguousarray(part.prompt_lengths).data)
        return f"{len(self)} rows, {digest.hexdigest()[:16]}"

    def lengths(self) -> Tensor:
        """Return the number of tokens of every sequence, ``[rows]``, int32."""
        return torch.from_numpy(np.concatenate([np.diff(part.ends, prepend=0).astype(np.int32) for part in self.parts]))

    def number(self, index: int) -> int:
        """Return the number of a sequence's row in the corpus."""
        part, position = self._place(index)
        return int(part.numbers[position])

    def __getitem__(self, index: int) -> Item:
        """Return (row number, ids, length of the prompt)."""
        part, position = self._place(index)
        begin = int(part.ends[position - 1]) if position else 0
        # A copy, as the array may be a part of a file that is mapped for reading.
        ids = torch.tensor(part.ids[begin : int(part.ends[position])])
        return index, ids, int(part.prompt_lengths[position])

    def _place(self, index: int) -> tuple[Part, int]:
        number = bisect_right(self._starts, index) - 1
        return self.parts[number], index - self._starts[number]


class Collate:
    """Fill the last block of each pair, pad pairs to a common length, and give every position its role.

    Args:
        pad_id: Token id of the padding.
        eos_id: Token id of the fill.
        block_length: Length of the blocks of the grid.
    """

    def __init__(self, pad_id: int, eos_id: int, block_length: int) -> None:
        self.pad_id, self.eos_id, self.block_length = pad_id, eos_id, block_length

    def __call__(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """Return ``ids`` and ``roles`` ``[batch, length]``, and ``index`` ``[batch]``."""
        shape = (len(items), max(whole_blocks(len(ids), self.block_length) for _, ids, _ in items))
        ids = torch.full(shape, self.pad_id, dtype=torch.long)
        roles = torch.full(shape, int(Role.PAD), dtype=torch.long)
        for row, (_, tokens, prompt_length) in enumerate(items):
            ids[row, : len(tokens)] = tokens
            roles[row, :prompt_length] = int(Role.PROMPT)
            roles[row, prompt_length : len(tokens)] = int(Role.RESPONSE)
            fill = slice(len(tokens), whole_blocks(len(tokens), self.block_length))
            ids[row, fill] = self.eos_id
            roles[row, fill] = int(Role.FILL)
        return {"ids": ids, "roles": roles, "index": torch.tensor([index for index, _, _ in items])}
