"""Where the queries of a forward are, and which keys they attend to.

Shapes: G rows of a group, P pending tokens, T tokens of a block, N versions of a block, Q queries of a row, K keys.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dmaxlit.backbone.attention import ModelMask, block_diffusion_mask
from dmaxlit.backbone.cache import Placement, RowCache
from dmaxlit.backbone.denoiser import Denoiser
from dmaxlit.device_copies import on_device


class Layout(NamedTuple):
    """Where the queries of a group are, and what they attend to.

    Args:
        positions: ``[G, Q]``.
        mask: The attention mask.
        placement: What is written to the cache and read from it; None without cache.
    """

    positions: Tensor
    mask: ModelMask
    placement: Placement | None


class PaddedGroup(NamedTuple):
    """Requests that share a forward, each with its pending tokens in front of its blocks, padded at both ends.

    Args:
        extents: Cached positions of each row, start of its block, and end of its window; idle rows come last.
        num_requests: Rows that are not idle.
        first: Row of the first one in the cache.
        num_pending: Most pending tokens of a request (P).
        num_queries: Queries of the open blocks of a request.
        num_keys: Keys of each row (K).
    """

    extents: tuple[tuple[int, int, int], ...]
    num_requests: int
    first: int
    num_pending: int
    num_queries: int
    num_keys: int


class Layouts:
    """Makes the layouts of forwards.

    Args:
        denoiser: The model.
        cache: Its cache, or None to recompute everything. The last slot of a row is the scratch slot.
        block_attention_mask: ``[N T, N T]`` bool, from query to key, among the versions of a block; None for one.
    """

    def __init__(self, denoiser: Denoiser, cache: RowCache | None, block_attention_mask: Tensor | None) -> None:
        self._denoiser, self._cache, self._block_mask = denoiser, cache, block_attention_mask
        self._device = denoiser.device

    def padded(self, group: PaddedGroup) -> Layout:
        """Make the layout of a padded group."""
        extents, num_requests, first, num_pending, num_queries, num_keys = group
        cache, length, num_rows = self._cache, self._denoiser.block_length, len(extents)
        # Slot and position of each query. Versions of a block have different slots but the same positions.
        num_cached, block_start, open_end = on_device(extents, self._device).T.unsqueeze(-1)
        offsets = torch.arange(-num_pending, num_queries, device=self._device)
        slots = positions = block_start + offsets
        is_token = slots >= num_cached
        is_block_alone = num_pending == 0 and self._block_mask is None and num_queries == length
        if not is_block_alone:
            offset_in_window = offsets
            if self._block_mask is not None:
                offset_in_window = torch.where(offsets < 0, offsets, offsets % length)
            elif num_queries > length:
                is_token &= slots < open_end
            positions = torch.where(is_token, block_start + offset_in_window, 0)

        # Keys: those of this forward alone, or all slots of the cache, counted from the current block.
        placement = None
        if cache is None:
            key_offsets, is_key = offsets.expand(num_rows, -1), is_token
        else:
            written = slots
            if not is_block_alone or num_requests < num_rows:
                scratch_slot = cache.length - 1
                written = slots.where(is_token, scratch_slot)
                written[num_requests:] = scratch_slot
            placement = cache.prepare(slice(first, first + num_rows), written, num_keys)
            key_offsets = torch.arange(num_keys, device=self._device) - block_start
            is_key = key_offsets < num_queries

        allowed = is_key[:, None]  # a block alone attends to itself and everything before
        if not is_block_alone:
            allowed = allowed & self._attention_mask(
                offsets.expand(num_rows, -1), key_offsets, block_start // length, is_token
            )
        return Layout(positions, self._denoiser.model_mask(allowed, slots.shape[1]), placement)

    def with_extra_rows(self, rows: Sequence[int], starts: Sequence[int], num_keys: int) -> Layout:
        """Make the layout of a group with extra rows.

        Args:
            rows: Row of the request of each extra row.
            starts: Position at which the block of each row begins, those of extra rows first.
            num_keys: Keys of each row.
        """
        assert self._cache is not None
        length = self._denoiser.block_length
        start = on_device(starts, self._device)
        slots = start.unsqueeze(1) + torch.arange(length, device=self._device)
        num_requests = len(starts) - len(rows)
        placement = self._cache.prepare(slice(0, num_requests), slots, num_keys, on_device(rows, self._device))
        is_key = torch.arange(num_keys, device=self._device) < start.unsqueeze(1) + length
        return Layout(slots, self._denoiser.model_mask(is_key[:, None], length), placement)

    def _attention_mask(self, queries: Tensor, keys: Tensor, current_block: Tensor, is_token: Tensor) -> Tensor:
        """Compute which query attends to which key, ``[G, Q, K]`` bool.

        Args:
            queries: ``[G, Q]`` slot of each query, counted from the current block of its row.
            keys: ``[G, K]`` slot of each key, counted likewise.
            current_block: ``[G, 1]`` number of the row's current block.
            is_token: ``[G, Q]`` bool, False for padding queries.
        """
        length = self._denoiser.block_length
        # Padding queries count as part of the first block, so that they have keys to attend to.
        if self._block_mask is None:  # each block attends to itself and those before, as they are
            q_block = torch.where(is_token, current_block + queries // length, 0)
            return (current_block + keys // length).unsqueeze(-2) <= q_block.unsqueeze(-1)
        q_block = torch.where(is_token, current_block + (queries // length).clamp(max=0), 0)
        k_block = current_block + (keys // length).clamp(max=0)
        q_noisy, k_noisy = q_block == current_block, k_block == current_block
        allowed = block_diffusion_mask(q_block, k_block, q_noisy, k_noisy)

        # Within the current block, the mask among its versions applies as well.
        q_index, k_index = queries[0].clamp(min=0), keys.clamp(0, self._block_mask.shape[0] - 1)
        among_versions = self._block_mask[q_index][:, k_index].transpose(0, 1)
        both_current = (q_noisy & (queries >= 0)).unsqueeze(-1) & k_noisy.unsqueeze(-2)
        return allowed & (among_versions | ~both_current)
