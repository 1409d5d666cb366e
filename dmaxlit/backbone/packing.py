"""Packing of a training batch: only the blocks that are needed, with several sequences in a row.

Shapes: B sequences of L positions, n blocks of T each; R packed rows of W positions.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from dmaxlit.backbone.attention import block_diffusion_mask, may_attend
from dmaxlit.device_copies import on_device
from dmaxlit.tokens import CleanBatch, Role


@dataclass(frozen=True)
class PackedCopy:
    """The clean or the noisy copy of a batch's blocks, next to each other in rows.

    Args:
        index: ``[R, W]`` index of each position in the flattened batch; 0 for filling at the end of a row.
        sequence: ``[R, W]`` number of the sequence it belongs to; -1 for filling.
        block: ``[R, W]`` its block in that sequence.
        position: ``[R, W]`` its position in that sequence; sequences that share a row all start at 0.
        is_token: ``[R, W]`` bool, False for filling and for pads.
        noisy: Whether this is the noisy copy, the blocks of a view.
        group: ``[R, W]`` number of the group that the block belongs to; None: each block is one.
    """

    index: Tensor
    sequence: Tensor
    block: Tensor
    position: Tensor
    is_token: Tensor
    noisy: bool
    group: Tensor | None = None

    @classmethod
    def of(cls, rows: list[list[int]], clean: CleanBatch, noisy: bool) -> "PackedCopy":
        """Pack blocks, given by their numbers in the flattened batch, row by row."""
        length, device = clean.block_length, clean.ids.device
        blocks_per_sequence = clean.ids.shape[1] // length
        width = max(1, *map(len, rows))
        # Numbers of the blocks, with -1 for filling, then one entry per position.
        number = on_device([row + [-1] * (width - len(row)) for row in rows], device)
        number = number.repeat_interleave(length, 1)
        offset = torch.arange(length, device=device).repeat(width)
        filling = number < 0
        sequence = torch.where(filling, -1, number // blocks_per_sequence)
        block = torch.where(filling, 0, number % blocks_per_sequence)
        index = torch.where(filling, 0, number * length + offset)
        position = torch.where(filling, 0, block * length + offset)
        is_token = (clean.roles.flatten()[index] != Role.PAD) & ~filling
        return cls(index, sequence, block, position, is_token, noisy)

    def take(self, values: Tensor) -> Tensor:
        """Return the entries of the packed positions, ``[R, W, ...]``, from those of the batch, ``[B, L, ...]``."""
        return values.flatten(0, 1)[self.index]


@dataclass(frozen=True)
class Layout:
    """The packed copies of a batch: all blocks of the clean one, the blocks with response tokens of the noisy one.

    Only response tokens of a view are predicted, and a noisy block is visible only to itself. Sequences share a row as
    long as it is no longer than the longest of them, so that short ones cost no padding; none attends to another. Both
    copies of a sequence are in the same row.

    Args:
        clean: The clean copy.
        noisy: The noisy copy.
        gather_index: ``[B, L]`` index of each position in the flattened noisy copy; 0 for positions it does not hold.
    """

    clean: PackedCopy
    noisy: PackedCopy
    gather_index: Tensor

    @classmethod
    def of(cls, clean: CleanBatch) -> "Layout":
        """Pack a batch. Synchronises with the device."""
        batch, length = clean.ids.shape
        assert length % clean.block_length == 0, "batches are padded to whole blocks"
        # Which blocks each copy needs, by their numbers in the flattened batch, for each sequence.
        roles = clean.roles.view(batch, -1, clean.block_length)
        has_tokens, has_response = (roles != Role.PAD).any(-1), clean.response.view_as(roles).any(-1)
        blocks = length // clean.block_length
        clean_blocks, noisy_blocks = (
            [[row * blocks + block for block in range(blocks) if is_needed[row][block]] for row in range(batch)]
            for is_needed in torch.stack([has_tokens, has_response]).tolist()
        )
        # The same sequences share a row in both copies.
        bins = _first_fit([len(numbers) for numbers in clean_blocks])
        clean_copy, noisy_copy = (
            PackedCopy.of(
                [[number for row in sequences for number in numbers[row]] for sequences in bins], clean, noisy
            )
            for numbers, noisy in ((clean_blocks, False), (noisy_blocks, True))
        )
        # The way back. Filling writes to a dummy last entry.
        gather_index = torch.zeros(batch * length + 1, dtype=torch.long, device=clean.ids.device)
        index = torch.where(noisy_copy.sequence < 0, batch * length, noisy_copy.index).flatten()
        gather_index[index] = torch.arange(index.shape[0], device=index.device)
        return cls(clean_copy, noisy_copy, gather_index[:-1].view(batch, length))

    def grouped(self, groups: Tensor, block_length: int) -> "Layout":
        """Return the same layout with blocks in groups.

        Args:
            groups: ``[B, n]`` group of each block; see :class:`~dmaxlit.noise.View`.
            block_length: Tokens in a block.
        """
        group = groups.repeat_interleave(block_length, 1)
        clean, noisy = (replace(copy, group=copy.take(group)) for copy in (self.clean, self.noisy))
        return Layout(clean, noisy, self.gather_index)

    @cached_property
    def clean_mask(self) -> "PackedAttention":
        """Attention of the clean copy to itself."""
        return PackedAttention([self.clean], [self.clean])

    @cached_property
    def view_mask(self) -> "PackedAttention":
        """Attention of the noisy copy to both; one mask for all views and layers."""
        return PackedAttention([self.noisy], [self.clean, self.noisy])

    @cached_property
    def doubled_mask(self) -> "PackedAttention":
        """Attention of both copies to both, as one sequence."""
        return PackedAttention([self.clean, self.noisy], [self.clean, self.noisy])


class PackedAttention:
    """The attention mask between packed copies, ``[R, Q, K]``; the queries are the last of the keys.

    The block-diffusion rule within each sequence. Every position also attends to itself, so that filling and pads,
    which no token attends to, have a key.

    Args:
        queries: Copies whose positions are the queries.
        keys: Copies whose positions are the keys.
    """

    def __init__(self, queries: list[PackedCopy], keys: list[PackedCopy]) -> None:
        self._q, self._k = _Concatenated.of(queries), _Concatenated.of(keys)
        self._dense: Tensor | None = None
        self._sparse: BlockMask | None = None

    def dense(self) -> Tensor:
        """Return the mask as a tensor; computed once."""
        if self._dense is None:
            q, k = self._q, self._k
            mask = block_diffusion_mask(q.block, k.block, q.noisy, k.noisy, q.group, k.group)
            mask &= (q.sequence.unsqueeze(-1) == k.sequence.unsqueeze(-2)) & k.is_token.unsqueeze(-2)
            queries, keys = mask.shape[1:]
            key = torch.arange(keys, device=mask.device)
            mask |= key[keys - queries :, None] == key  # itself
            self._dense = mask
        return self._dense

    def sparse(self) -> BlockMask:
        """Return the mask for FlexAttention, on a GPU without a dense tensor; computed once."""
        if self._sparse is None:
            (rows, queries), keys, device = self._q.block.shape, self._k.block.shape[1], self._q.block.device

            def mask_mod(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
                return self._may_attend(row, query, key)

            compiled = device.type == "cuda"
            self._sparse = create_block_mask(mask_mod, rows, None, queries, keys, device=str(device), _compile=compiled)
        return self._sparse

    def _may_attend(self, row: Tensor, query: Tensor, key: Tensor) -> Tensor:
        q, k = self._q, self._k
        group = (None, None) if q.group is None or k.group is None else (q.group[row, query], k.group[row, key])
        allowed = may_attend(q.block[row, query], k.block[row, key], q.noisy[row, query], k.noisy[row, key], *group)
        # Not in place, which cannot be compiled.
        allowed = allowed & (q.sequence[row, query] == k.sequence[row, key]) & k.is_token[row, key]
        return allowed | (key == query + (k.block.shape[1] - q.block.shape[1]))


@dataclass(frozen=True)
class _Concatenated:
    """Copies one after the other; each field ``[R, W]``."""

    block: Tensor
    sequence: Tensor
    is_token: Tensor
    noisy: Tensor
    group: Tensor | None

    @classmethod
    def of(cls, copies: list[PackedCopy]) -> "_Concatenated":
        groups = [copy.group for copy in copies if copy.group is not None]
        return cls(
            block=torch.cat([copy.block for copy in copies], 1),
            sequence=torch.cat([copy.sequence for copy in copies], 1),
            is_token=torch.cat([copy.is_token for copy in copies], 1),
            noisy=torch.cat([torch.full_like(copy.is_token, copy.noisy) for copy in copies], 1),
            group=torch.cat(groups, 1) if groups else None,
        )


def _first_fit(sizes: list[int]) -> list[list[int]]:
    """Pack items first-fit into bins, none fuller than the largest item.

    Args:
        sizes: Size of each item.

    Returns:
        The items of each bin, in order; bins in the order of their first items.
    """
    bins, room = list[list[int]](), list[int]()
    for item in sorted(range(len(sizes)), key=lambda item: -sizes[item]):
        number = next((number for number, free in enumerate(room) if sizes[item] <= free), len(bins))
        if number == len(bins):
            bins.append([])
            room.append(max(sizes))
        bins[number].append(item)
        room[number] -= sizes[item]
    return sorted(sorted(items) for items in bins)
