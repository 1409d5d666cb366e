"""One model forward for the open blocks of requests of different lengths and progress.

Shapes: R rows of the batch, B blocks behind the front blocks of their windows, G rows of a group, P pending tokens, T
tokens of a block, N versions of a block (the block itself and the decoder's extra blocks), Q queries of a row, K keys.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dmaxlit.backbone.cache import RowCache
from dmaxlit.backbone.denoiser import Denoiser
from dmaxlit.engine.batching import group_order, groups
from dmaxlit.engine.layout import Layouts, PaddedGroup
from dmaxlit.engine.request import Request


class BlockForward:
    """Runs the denoiser on ``[pending tokens ; open blocks]`` of each request.

    Decided tokens without keys and values (the prompt of a new request, the last committed block) are *pending*. They
    are processed as clean queries in the request's next forward, in front of the noisy blocks. The block-diffusion mask
    makes that exact, so neither prefill nor commit needs a separate forward. Pending tokens come in whole blocks.
    Requests with 2, 3-4, 5-8 ... pending blocks form one group each and are padded to its longest. Padding queries
    attend to the first block, write their keys to a scratch slot, and nothing attends to them.

    A request has one open block, or several if the decoder works on a window: the *front block*, and others behind it,
    which attend to it as it is in the same forward (block-causally), and whose keys the next forward overwrites.

    Most requests have no pending tokens, and most others only the last committed block. These share a forward with
    little padding: a committed block, or one behind the front block, is processed as an *extra row* of the batch, which
    shares the keys of its request. Where that would copy more keys than it saves queries, all are padded instead.
    Without cache, compiled, or with several versions of a block there are no extra rows, and requests with one pending
    block are a group like the others.

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
        window: Most open blocks of a request; 1 with several versions of a block or compiled.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        num_rows: int,
        max_length: int,
        use_cache: bool = True,
        block_attention_mask: Tensor | None = None,
        compile: bool = False,
        window: int = 1,
    ) -> None:
        assert window == 1 or (block_attention_mask is None and not compile)
        self._denoiser = denoiser
        self._device = denoiser.device
        self._num_queries = denoiser.block_length if block_attention_mask is None else block_attention_mask.shape[0]
        self._scratch_slot = max_length - denoiser.block_length + self._num_queries
        self._compile = compile
        self._num_rows = _power_of_two(num_rows) if compile else num_rows
        has_extra_rows = use_cache and block_attention_mask is None and not compile
        self._num_committed = window if has_extra_rows else 0
        max_extra_rows = num_rows * (2 * window - 1) // 2 if has_extra_rows else 0
        self._cache: RowCache | None = None
        if use_cache:
            num_layers = int(denoiser.model.config.num_hidden_layers)
            num_slots = self._scratch_slot + 1
            self._cache = RowCache(self._num_rows, num_slots, num_layers, compile, max_extra_rows)
        self._layouts = Layouts(denoiser, self._cache, block_attention_mask)

    def reserve(self, max_length: int) -> None:
        """Make room for a request that may be longer than those before.

        Args:
            max_length: Its positions, in whole blocks.
        """
        scratch_slot = max_length - self._denoiser.block_length + self._num_queries
        if scratch_slot > self._scratch_slot:
            self._scratch_slot = scratch_slot
            if self._cache is not None:
                self._cache.extend(scratch_slot + 1)

    def group_order(self, requests: Sequence[Request], remaining: Sequence[int]) -> list[int]:
        """Return the remaining rows such that requests that share a forward are neighbours.

        See :func:`~dmaxlit.engine.batching.group_order`.
        """
        return group_order(requests, remaining, self._num_committed)

    def reorder(self, row_indices: Sequence[int]) -> None:
        """Keep the given rows, in this order."""
        if self._cache is not None:
            self._cache.reorder(row_indices)

    def __call__(self, requests: Sequence[Request], blocks: Tensor) -> Tensor:
        """Compute the hidden states of the open blocks, ``[B + R, N T, hidden_size]``.

        Args:
            requests: All requests of the batch, in the order of the cache; see :meth:`group_order`.
            blocks: ``[B + R, N T, hidden_size]`` input embeddings of the open blocks, one version after the other:
                first those behind the front blocks, request by request, then the front blocks.
        """
        self._layouts.begin_forward()
        parts = list(groups(requests, self._num_committed))
        hidden = self._forward_group(requests, 0, blocks) if len(parts) == 1 else self._run(parts, requests, blocks)
        if self._cache is not None:
            for request in requests:
                request.mark_cached()
        return hidden

    def _run(self, parts: Sequence[tuple[int, int]], requests: Sequence[Request], blocks: Tensor) -> Tensor:
        """Run several groups, from the first to the last row (exclusive) of each."""
        num_behind = [request.num_open - 1 for request in requests]
        behind, front = blocks[: -len(requests)], blocks[-len(requests) :]
        hidden_behind, hidden_front = [], []
        for first, last in parts:
            begin = sum(num_behind[:first])
            end = begin + sum(num_behind[first:last])
            group = torch.cat([behind[begin:end], front[first:last]])
            group = self._forward_group(requests[first:last], first, group)
            hidden_behind.append(group[: end - begin])
            hidden_front.append(group[end - begin :])
        return torch.cat(hidden_behind + hidden_front)

    def _forward_group(self, requests: Sequence[Request], first: int, blocks: Tensor) -> Tensor:
        """Run one group, whose first request is row ``first`` of the cache; return its blocks in the same order."""
        length = self._denoiser.block_length
        num_pending = max(request.num_pending for request in requests)
        num_open = max(request.num_open for request in requests)
        if self._num_committed and first == 0 and num_pending <= length * self._num_committed:
            # An extra row costs the queries of a block and about as much again for the copy of its keys.
            num_extra = sum(request.num_pending // length + request.num_open - 1 for request in requests)
            if 0 < 2 * num_extra <= len(requests) * (num_pending // length + num_open - 1):
                return self._forward_with_extra_rows(requests, blocks)
        if num_open == 1:
            return self._forward_padded(requests, first, num_pending, blocks)
        behind, front = blocks[: -len(requests)], blocks[-len(requests) :]
        windows = front.new_zeros(len(requests), num_open, *front.shape[1:])
        rows, places = torch.tensor(_behind(requests), device=self._device).reshape(-1, 2).unbind(1)
        windows[:, 0] = front
        windows[rows, places] = behind
        hidden = self._forward_padded(requests, first, num_pending, windows.flatten(1, 2)).view_as(windows)
        return torch.cat([hidden[rows, places], hidden[:, 0]])

    def _forward_padded(self, requests: Sequence[Request], first: int, num_pending: int, blocks: Tensor) -> Tensor:
        """Run a group with the pending tokens of each request in front of its blocks, padded at both ends.

        Args:
            requests: The requests of the group.
            first: Row of the first one in the cache.
            num_pending: Most pending tokens of a request.
            blocks: ``[G, Q, hidden_size]`` the open blocks of each request, or the versions of its block.
        """
        cache, length, num_queries = self._cache, self._denoiser.block_length, blocks.shape[1]
        inputs = blocks if num_pending == 0 else torch.cat([self._embed_pending(requests, num_pending), blocks], 1)
        num_rows = len(requests)
        # Versions of a block have slots behind it.
        num_keys = max(request.open_end for request in requests) + self._num_queries - length

        # Compiled forwards have few shapes: idle rows, and keys that nothing attends to, pad to them.
        compiled = self._compile and num_pending == first == 0 and cache is not None and cache.is_filled
        if compiled:
            num_rows = min(_power_of_two(num_rows), self._num_rows)
            num_keys = min(_power_of_two(num_keys, 128), self._scratch_slot + 1)
            inputs = F.pad(inputs, (0, 0, 0, 0, 0, num_rows - len(requests)))

        extents = [(request.num_cached, request.block_start, request.open_end) for request in requests]
        extents += [(0, 0, length)] * (num_rows - len(requests))
        group = PaddedGroup(tuple(extents), len(requests), first, num_pending, num_queries, num_keys)
        layout = self._layouts.padded(group)
        run = self._denoiser.compiled_hidden if compiled else self._denoiser.hidden
        hidden = run(layout.mask, layout.positions, cache, inputs_embeds=inputs)
        return hidden[: len(requests), num_pending:] if compiled or num_pending else hidden

    def _forward_with_extra_rows(self, requests: Sequence[Request], blocks: Tensor) -> Tensor:
        """Run the first group with a row for each block; those of pending blocks come first, then the open ones."""
        assert self._cache is not None
        length = self._denoiser.block_length
        pending = [
            (row, start)
            for row, request in enumerate(requests)
            for start in range(request.num_cached, request.block_start, length)
        ]
        if pending:
            ids = [requests[row].tokens[start : start + length] for row, start in pending]
            blocks = torch.cat([self._denoiser.embed(torch.tensor(ids, device=self._device)), blocks])

        rows = [row for row, _ in pending] + [row for row, _ in _behind(requests)]
        starts = [start for _, start in pending]
        starts += [start for request in requests for start in request.open_starts[1:]]
        starts += [request.block_start for request in requests]
        num_keys = max(request.open_end for request in requests)
        layout = self._layouts.with_extra_rows(tuple(rows), tuple(starts), num_keys)
        hidden = self._denoiser.hidden(layout.mask, layout.positions, self._cache, inputs_embeds=blocks)
        return hidden[len(pending) :]

    def _embed_pending(self, requests: Sequence[Request], num_pending: int) -> Tensor:
        """Embed the pending tokens, ``[G, P, hidden_size]``, padded on the left."""
        pad_id = self._denoiser.special.pad_id
        ids = [[pad_id] * (num_pending - request.num_pending) + request.pending_tokens for request in requests]
        return self._denoiser.embed(torch.tensor(ids, device=self._device))


def _behind(requests: Sequence[Request]) -> list[tuple[int, int]]:
    """Return the row, and the place in its window, of each block behind a front block."""
    return [(row, place) for row, request in enumerate(requests) for place in range(1, request.num_open)]


def _power_of_two(number: int, least: int = 1) -> int:
    """Return the smallest power of two that is at least ``number`` and ``least``."""
    return 1 << (max(number, least) - 1).bit_length()
