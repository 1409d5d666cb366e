"""One model forward for the current blocks of requests of different lengths and progress.

Shapes: R rows of the batch, G rows of a group, P pending tokens, T tokens of a block, N versions of the block (the
block itself and the decoder's extra blocks), Q queries of a row, K keys.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dmaxlit.backbone.attention import block_diffusion_mask
from dmaxlit.backbone.cache import RowCache
from dmaxlit.backbone.denoiser import Denoiser
from dmaxlit.engine.batching import group_order, groups
from dmaxlit.engine.request import Request


class BlockForward:
    """Runs the denoiser on ``[pending tokens ; current block]`` of each request.

    Decided tokens without keys and values (the prompt of a new request, the last committed block) are *pending*. They
    are processed as clean queries in the request's next forward, in front of the noisy block. The block-diffusion mask
    makes that exact, so neither prefill nor commit needs a separate forward. Pending tokens come in whole blocks.
    Requests with 2, 3-4, 5-8 ... pending blocks form one group each and are padded to its longest. Padding queries
    attend to the first block, write their keys to a scratch slot, and nothing attends to them.

    Most requests have no pending tokens, and most others only the last committed block. These two share a forward
    without padding: the committed block is processed as an extra batch row, a *commit row*, which shares the keys of
    its request. The cache has room for half as many commit rows as rows; if more than half of the requests need one,
    all are padded instead. Without cache, compiled, or with several versions of a block there are no commit rows, and
    requests with one pending block are a group like the others.

    A decoder may request several versions of a block in one forward. They are queries of one row at the same
    positions. Their keys are stored behind those of the block until the next block overwrites them.

    Args:
        denoiser: The model.
        num_rows: Most requests that decode together.
        max_length: Positions of the longest request to come, in whole blocks.
        use_cache: Cache keys and values. False: every decided token is pending at every forward. Slow, same results.
        block_attention_mask: ``[N T, N T]`` bool, from query to key, among the versions of a block. Default: one
            version, which attends to itself.
        compile: Compile the forwards without pending tokens. For the number of shapes to be small, rows and keys are
            padded to powers of two.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        num_rows: int,
        max_length: int,
        use_cache: bool = True,
        block_attention_mask: Tensor | None = None,
        compile: bool = False,
    ) -> None:
        self._denoiser = denoiser
        self._device = denoiser.device
        self._block_mask = block_attention_mask
        self._num_queries = denoiser.block_length if block_attention_mask is None else block_attention_mask.shape[0]
        self._scratch_slot = max_length - denoiser.block_length + self._num_queries
        self._compile = compile
        self._num_rows = _power_of_two(num_rows) if compile else num_rows
        may_commit = use_cache and block_attention_mask is None and not compile
        self._max_commit_rows = num_rows // 2 if may_commit else 0
        self._cache: RowCache | None = None
        if use_cache:
            num_layers = int(denoiser.model.config.num_hidden_layers)
            num_slots = self._scratch_slot + 1
            self._cache = RowCache(self._num_rows, num_slots, num_layers, compile, self._max_commit_rows)

    def group_order(self, requests: Sequence[Request], remaining: Sequence[int]) -> list[int]:
        """Return the remaining rows such that requests that share a forward are neighbours.

        See :func:`~dmaxlit.engine.batching.group_order`.
        """
        return group_order(requests, remaining, self._max_commit_rows > 0)

    def reorder(self, row_indices: Sequence[int]) -> None:
        """Keep the given rows, in this order."""
        if self._cache is not None:
            self._cache.reorder(row_indices)

    def __call__(self, requests: Sequence[Request], block: Tensor) -> Tensor:
        """Compute the hidden states of the current blocks, ``[R, N T, hidden_size]``.

        Args:
            requests: All requests of the batch, in the order of the cache; see :meth:`group_order`.
            block: ``[R, N T, hidden_size]`` input embeddings of the current blocks, one version after the other.
        """
        hidden = [
            self._forward_group(requests[first:last], first, block[first:last])
            for first, last in groups(requests, self._max_commit_rows > 0)
        ]
        if self._cache is not None:
            for request in requests:
                request.mark_cached()
        return hidden[0] if len(hidden) == 1 else torch.cat(hidden)

    def _forward_group(self, requests: Sequence[Request], first: int, block: Tensor) -> Tensor:
        """Run one group, whose first request is row ``first`` of the cache."""
        num_pending = max(request.num_pending for request in requests)
        committed = []
        if num_pending == self._denoiser.block_length:
            committed = [row for row, request in enumerate(requests) if request.num_pending]
        # With more commit rows than half of the rows, padding costs no more.
        if self._max_commit_rows and first == 0 and 0 < 2 * len(committed) <= len(requests):
            return self._forward_with_commit_rows(requests, committed, block)
        return self._forward_padded(requests, first, num_pending, block)

    def _forward_padded(self, requests: Sequence[Request], first: int, num_pending: int, block: Tensor) -> Tensor:
        """Run a group with the pending tokens of each request in front of its block, padded to ``num_pending``."""
        cache, length = self._cache, self._denoiser.block_length
        inputs = block if num_pending == 0 else torch.cat([self._embed_pending(requests, num_pending), block], 1)
        num_rows, num_keys = len(requests), max(request.block_start for request in requests) + self._num_queries

        # Compiled forwards have few shapes: idle rows, and keys that nothing attends to, pad to them.
        compiled = self._compile and num_pending == first == 0 and cache is not None and cache.is_filled
        if compiled:
            num_rows = min(_power_of_two(num_rows), self._num_rows)
            num_keys = min(_power_of_two(num_keys, 128), self._scratch_slot + 1)
            inputs = F.pad(inputs, (0, 0, 0, 0, 0, num_rows - len(requests)))

        # Slot and position of each query. Versions of a block have different slots but the same positions.
        extents = [(request.num_cached, request.block_start) for request in requests]
        extents += [(0, 0)] * (num_rows - len(requests))
        num_cached, block_start = torch.tensor(extents, device=self._device).T.unsqueeze(-1)
        offsets = torch.arange(-num_pending, self._num_queries, device=self._device)
        slots = block_start + offsets
        is_token = slots >= num_cached
        positions = torch.where(is_token, block_start + torch.where(offsets < 0, offsets, offsets % length), 0)

        # Keys: those of this forward alone, or all slots of the cache, counted from the current block.
        if cache is None:
            key_offsets, is_key = offsets.expand(num_rows, -1), is_token
        else:
            written = slots.where(is_token, self._scratch_slot)
            written[len(requests) :] = self._scratch_slot
            cache.prepare(slice(first, first + num_rows), written, num_keys)
            key_offsets = torch.arange(num_keys, device=self._device) - block_start
            is_key = key_offsets < self._num_queries

        if num_pending == 0 and self._block_mask is None:  # a block alone attends to itself and everything before
            allowed = is_key[:, None]
        else:
            mask = self._attention_mask(offsets.expand(num_rows, -1), key_offsets, block_start // length, is_token)
            allowed = is_key[:, None] & mask
        run = self._denoiser.compiled_hidden if compiled else self._denoiser.hidden
        return run(allowed, positions, cache, inputs_embeds=inputs)[: len(requests), num_pending:]

    def _forward_with_commit_rows(self, requests: Sequence[Request], committed: list[int], block: Tensor) -> Tensor:
        """Run the first group; the one pending block of each request in ``committed`` is processed as an extra row."""
        assert self._cache is not None
        length = self._denoiser.block_length
        num_keys = max(request.block_start for request in requests) + self._num_queries
        pending = [requests[row] for row in committed]
        inputs = torch.cat([self._embed_pending(pending, length), block])

        # The commit rows come first.
        starts = [request.num_cached for request in pending] + [request.block_start for request in requests]
        start = torch.tensor(starts, device=self._device)
        slots = start.unsqueeze(1) + torch.arange(length, device=self._device)
        commit_rows = torch.tensor(committed, device=self._device)
        self._cache.prepare(slice(0, len(requests)), slots, num_keys, commit_rows)
        is_key = torch.arange(num_keys, device=self._device) < start.unsqueeze(1) + length
        hidden = self._denoiser.hidden(is_key[:, None], slots, self._cache, inputs_embeds=inputs)
        return hidden[len(committed) :]

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
        q_block = torch.where(is_token, current_block + (queries // length).clamp(max=0), 0)
        k_block = current_block + (keys // length).clamp(max=0)
        q_noisy, k_noisy = q_block == current_block, k_block == current_block
        allowed = block_diffusion_mask(q_block, k_block, q_noisy, k_noisy)
        if self._block_mask is None:
            return allowed

        # Within the current block, the mask among its versions applies as well.
        q_index, k_index = queries[0].clamp(min=0), keys.clamp(0, self._num_queries - 1)
        among_versions = self._block_mask[q_index][:, k_index].transpose(0, 1)
        both_current = (q_noisy & (queries >= 0)).unsqueeze(-1) & k_noisy.unsqueeze(-2)
        return allowed & (among_versions | ~both_current)

    def _embed_pending(self, requests: Sequence[Request], num_pending: int) -> Tensor:
        """Embed the pending tokens, ``[G, P, hidden_size]``, padded on the left."""
        pad_id = self._denoiser.special.pad_id
        ids = [[pad_id] * (num_pending - request.num_pending) + request.pending_tokens for request in requests]
        return self._denoiser.embed(torch.tensor(ids, device=self._device))


def _power_of_two(number: int, least: int = 1) -> int:
    """Return the smallest power of two that is at least ``number`` and ``least``."""
    return 1 << (max(number, least) - 1).bit_length()
