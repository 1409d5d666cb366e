"""How a batch's blocks are laid out for the model: only those that are needed, several sequences in a row.

Shapes: B sequences of L positions, n blocks of T each; R rows of W positions.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from dmaxlit.backbone.attention import block_diffusion_mask
from dmaxlit.tokens import CleanBatch, Role

__all__ = ["Layout", "PackedAttention", "PackedCopy"]


@dataclass(frozen=True)
class PackedCopy:
    """Blocks of one kind, clean or noisy, side by side in rows.

    Args:
        index: ``[R, W]`` place of each position in the flattened batch; 0 where a row is filled up.
        sequence: ``[R, W]`` number of the sequence it belongs to; -1 for filling.
        block: ``[R, W]`` its block in that sequence.
        position: ``[R, W]`` its position in that sequence; sequences that share a row all start at 0.
        is_token: ``[R, W]`` bool, False for filling and for pads.
        noisy: Whether these are the blocks of a view.
    """

    index: Tensor
    sequence: Tensor
    block: Tensor
    position: Tensor
    is_token: Tensor
    noisy: bool

    @classmethod
    def of(cls, rows: list[list[int]], clean: CleanBatch, noisy: bool) -> "PackedCopy":
        """Blocks by their number in the flattened batch, row by row."""
        length, device = clean.block_length, clean.ids.device
        width = max(1, *map(len, rows))
        number = torch.tensor([row + [-1] * (width - len(row)) for row in rows], device=device)
        number = number.repeat_interleave(length, 1)
        blocks = clean.ids.shape[1] // length
        filling = number < 0
        offset = torch.arange(length, device=device).repeat(width)
        block = torch.where(filling, 0, number % blocks)
        index = torch.where(filling, 0, number * length + offset)
        is_token = (clean.roles.flatten()[index] != Role.PAD) & ~filling
        sequence = torch.where(filling, -1, number // blocks)
        return cls(index, sequence, block, torch.where(filling, 0, block * length + offset), is_token, noisy)

    def take(self, values: Tensor) -> Tensor:
        """``[R, W, ...]`` of what belongs to the batch's positions, ``[B, L, ...]``."""
        return values.flatten(0, 1)[self.index]


@dataclass(frozen=True)
class Layout:
    """The clean half holds every block of a sequence, the noisy half the blocks with response tokens.

    A view is only asked about response tokens, and a noisy block is seen by itself alone. Sequences share a row as long
    as it is no longer than the longest of them, so that short ones cost no padding; none sees another. Both halves of a
    sequence lie in the same row.

    Args:
        clean: The clean half.
        noisy: The noisy half.
        gather_index: ``[B, L]`` where each position lies in the flattened noisy half; 0 for those that are not there.
    """

    clean: PackedCopy
    noisy: PackedCopy
    gather_index: Tensor

    @classmethod
    def of(cls, clean: CleanBatch) -> "Layout":
        """Lay out a batch. Waits for the device."""
        batch, length = clean.ids.shape
        assert length % clean.block_length == 0, "batches are padded to whole blocks"
        in_blocks = clean.roles.view(batch, -1, clean.block_length)
        answers = (in_blocks == Role.RESPONSE).any(-1)
        used = torch.stack([(in_blocks != Role.PAD).any(-1), answers]).tolist()
        blocks = length // clean.block_length
        needed, asked = (
            [[row * blocks + block for block in range(blocks) if kind[row][block]] for row in range(batch)]
            for kind in used
        )
        rows = _bins([len(numbers) for numbers in needed])
        halves = [
            PackedCopy.of([[number for row in group for number in numbers[row]] for group in rows], clean, noisy)
            for numbers, noisy in ((needed, False), (asked, True))
        ]
        noisy = halves[1]
        # One entry more takes what filling says of its place.
        gather_index = torch.zeros(batch * length + 1, dtype=torch.long, device=clean.ids.device)
        index = torch.where(noisy.sequence < 0, batch * length, noisy.index).flatten()
        gather_index[index] = torch.arange(index.shape[0], device=index.device)
        return cls(halves[0], noisy, gather_index[:-1].view(batch, length))

    @cached_property
    def clean_mask(self) -> "PackedAttention":
        """What the clean half sees."""
        return PackedAttention([self.clean], [self.clean])

    @cached_property
    def view_mask(self) -> "PackedAttention":
        """What the noisy half sees: one mask for all views and layers."""
        return PackedAttention([self.noisy], [self.clean, self.noisy])

    @cached_property
    def doubled_mask(self) -> "PackedAttention":
        """What both see, as one sequence."""
        return PackedAttention([self.clean, self.noisy], [self.clean, self.noisy])


class PackedAttention:
    """Who may attend to whom among halves, ``[R, Q, K]``; the queries are the last of the keys.

    The block-diffusion rule within each sequence. What is not real is seen by itself alone, so that no query is without
    a key.

    Args:
        queries: Halves whose positions ask.
        keys: Halves whose positions are seen.
    """

    def __init__(self, queries: list[PackedCopy], keys: list[PackedCopy]) -> None:
        self._q, self._k = _Concatenated.of(queries), _Concatenated.of(keys)
        self._dense: Tensor | None = None
        self._sparse: BlockMask | None = None

    def dense(self) -> Tensor:
        """The mask as a tensor; made once."""
        if self._dense is None:
            q, k = self._q, self._k
            mask = block_diffusion_mask(q.block, k.block, q.noisy, k.noisy)
            mask &= (q.sequence.unsqueeze(-1) == k.sequence.unsqueeze(-2)) & k.is_token.unsqueeze(-2)
            count, total = mask.shape[1:]
            itself = torch.eye(total, dtype=torch.bool, device=mask.device)[total - count :]
            self._dense = mask | itself
        return self._dense

    def sparse(self) -> BlockMask:
        """The mask for FlexAttention; made once, on a GPU without a dense tensor."""
        if self._sparse is None:
            (rows, queries), keys, device = self._q.block.shape, self._k.block.shape[1], self._q.block.device

            def visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
                return self._visible(row, query, key)

            compiled = device.type == "cuda"
            self._sparse = create_block_mask(visible, rows, None, queries, keys, device=str(device), _compile=compiled)
        return self._sparse

    def _visible(self, row: Tensor, query: Tensor, key: Tensor) -> Tensor:
        q, k = self._q, self._k
        q_block, k_block, q_noisy = q.block[row, query], k.block[row, key], q.noisy[row, query]
        to_clean = torch.where(q_noisy, q_block > k_block, q_block >= k_block)
        seen = torch.where(k.noisy[row, key], q_noisy & (q_block == k_block), to_clean)
        seen = (
            seen & (q.sequence[row, query] == k.sequence[row, key]) & k.is_token[row, key]
        )  # in place it cannot be compiled
        return seen | (key == query + (k.block.shape[1] - q.block.shape[1]))


@dataclass(frozen=True)
class _Concatenated:
    """Halves one behind the other; each ``[R, W]``."""

    block: Tensor
    sequence: Tensor
    is_token: Tensor
    noisy: Tensor

    @classmethod
    def of(cls, halves: list[PackedCopy]) -> "_Concatenated":
        block, sequence, is_token = (
            torch.cat([getattr(half, name) for half in halves], 1) for name in ("block", "sequence", "is_token")
        )
        return cls(
            block, sequence, is_token, torch.cat([torch.full_like(half.is_token, half.noisy) for half in halves], 1)
        )


def _bins(sizes: list[int]) -> list[list[int]]:
    """Items in as few bins as first-fit finds, none fuller than the largest item; in order of their first items."""
    capacity, bins, left = max(sizes), list[list[int]](), list[int]()
    for item in sorted(range(len(sizes)), key=lambda item: -sizes[item]):
        gather_index = next((gather_index for gather_index, room in enumerate(left) if sizes[item] <= room), None)
        if gather_index is None:
            bins.append([])
            left.append(capacity)
            gather_index = len(bins) - 1
        bins[gather_index].append(item)
        left[gather_index] -= sizes[item]
    return sorted(sorted(items) for items in bins)
