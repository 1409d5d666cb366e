"""One model forward for the open blocks of requests of different lengths and progress.

Shapes: R rows of the batch, B blocks behind the front blocks of their windows, G rows of a group, P pending tokens, T
tokens of a block, N versions of a block (the block itself and the decoder's extra blocks), Q queries of a row, K keys.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from dmaxlit.backbone.cache import RowCache
from dmaxlit.backbone.denoiser import Denoiser
from dmaxlit.device_copies import on_device
from dmaxlit.engine.batching import group_order, groups
from dmaxlit.engine.layout import Layout, Layouts, PaddedGroup
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
        compile: Compile the forwards without pending tokens. For the number of shapes to be small, rows, keys and the
            slots of the cache are padded to powers of two.
        window: Most open blocks of a request; 1 with several versions of a block or compiled.
        limit: Most positions of any request, in whole blocks; :meth:`reserve` makes no more room than that. Default:
            the model's context.
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
        limit: int | None = None,
    ) -> None:
        assert window == 1 or (block_attention_mask is None and not compile)
        self._denoiser = denoiser
        self._device = denoiser.device
        self._num_queries = denoiser.block_length if block_attention_mask is None else block_attention_mask.shape[0]
        if compile:
            max_length = min(_power_of_two(max_length, 128), denoiser.max_length)
        self._scratch_slot = self._scratch_slot_of(max_length)
        self._last_scratch_slot = self._scratch_slot_of(denoiser.max_length if limit is None else limit)
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
        self._extents: list[tuple[int, int, int]] | None = None
        self._parts: list[_Part] = []

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self._device

    def reserve(self, max_length: int) -> None:
        """Make room for a request that may be longer than those before, and for some that are a little longer.

        Args:
            max_length: Its positions, in whole blocks.

        Raises:
            MemoryError: If there is no memory for it; the requests before can go on.
        """
        scratch_slot = self._scratch_slot_of(max_length)
        if scratch_slot > self._scratch_slot:
            self._forget_plan()
            try:
                self._scratch_slot = scratch_slot if self._cache is None else self._extend(self._cache, scratch_slot)
            except RuntimeError as error:  # torch's for lack of memory, on a GPU and on a CPU
                raise MemoryError(f"no memory for the keys and values of {max_length} positions") from error

    def _extend(self, cache: RowCache, scratch_slot: int) -> int:
        """Extend a cache to a scratch slot or further, and return the one that it has then."""
        # To extend it copies what it holds: not for every request that is a little longer than all before.
        ample = min(self._scratch_slot * 5 // 4, self._last_scratch_slot)
        if cache.is_filled and ample > scratch_slot:
            with suppress(RuntimeError):  # there may be memory for less
                cache.extend(ample + 1)
                return ample
        cache.extend(scratch_slot + 1)
        return scratch_slot

    def _scratch_slot_of(self, max_length: int) -> int:
        """Return the slot behind those of a request of so many positions, and of the versions of its last block."""
        return max_length - self._denoiser.block_length + self._num_queries

    def group_order(self, requests: Sequence[Request], remaining: Sequence[int]) -> list[int]:
        """Return the remaining rows such that requests that share a forward are neighbours.

        See :func:`~dmaxlit.engine.batching.group_order`.
        """
        return group_order(requests, remaining, self._num_committed)

    def reorder(self, requests: Sequence[Request], row_indices: Sequence[int]) -> None:
        """Keep the given rows, in this order.

        Args:
            requests: The requests of the rows, in the new order.
            row_indices: Current index of each new row.
        """
        if self._cache is not None:
            self._cache.reorder(row_indices, max((request.num_cached for request in requests), default=0))

    def clear(self, row: int) -> None:
        """Forget the keys and values of a row; NaN among them, times 0, would spoil the request that takes it over."""
        if self._cache is not None:
            self._cache.clear(row)

    def __call__(self, requests: Sequence[Request], blocks: Tensor) -> Tensor:
        """Compute the hidden states of the open blocks, ``[B + R, N T, hidden_size]``.

        Args:
            requests: All requests of the batch, in the order of the cache; see :meth:`group_order`.
            blocks: ``[B + R, N T, hidden_size]`` input embeddings of the open blocks, one version after the other:
                first those behind the front blocks, request by request, then the front blocks.
        """
        extents = [(request.num_cached, request.block_start, request.open_end) for request in requests]
        if extents != self._extents:  # most blocks take several forwards, and nothing moves between them
            parts = groups(requests, self._num_committed)
            self._parts = [_Part(first, last, self._plan(requests[first:last], first)) for first, last in parts]
            self._extents = extents
        hidden = self._parts[0].run(self, blocks) if len(self._parts) == 1 else self._run(requests, blocks)
        if any(request.num_pending for request in requests):
            self._forget_plan()  # the next forward differs, and a prompt's mask is large
            if self._cache is not None:
                for request in requests:
                    request.mark_cached()
        return hidden

    def _forget_plan(self) -> None:
        self._extents, self._parts = None, []

    def _run(self, requests: Sequence[Request], blocks: Tensor) -> Tensor:
        """Run several groups."""
        num_behind = [request.num_open - 1 for request in requests]
        behind, front = blocks[: -len(requests)], blocks[-len(requests) :]
        hidden_behind, hidden_front = [], []
        for first, last, run in self._parts:
            begin = sum(num_behind[:first])
            end = begin + sum(num_behind[first:last])
            group = run(self, torch.cat([behind[begin:end], front[first:last]]))
            hidden_behind.append(group[: end - begin])
            hidden_front.append(group[end - begin :])
        return torch.cat(hidden_behind + hidden_front)

    def _plan(self, requests: Sequence[Request], first: int) -> "_Run":
        """Return what computes the hidden states of a group's blocks, in the same order.

        Args:
            requests: The requests of the group.
            first: Row of the first one in the cache.
        """
        length = self._denoiser.block_length
        num_pending = max(request.num_pending for request in requests)
        num_open = max(request.num_open for request in requests)
        if self._num_committed and first == 0 and num_pending <= length * self._num_committed:
            # An extra row costs the queries of a block and about as much again for the copy of its keys.
            num_extra = sum(request.num_pending // length + request.num_open - 1 for request in requests)
            if 0 < 2 * num_extra <= len(requests) * (num_pending // length + num_open - 1):
                return self._plan_extra_rows(requests)
        num_queries = num_open * length if num_open > 1 else self._num_queries
        run = self._plan_padded(requests, first, num_pending, num_queries)
        if num_open == 1:
            return run
        rows, places = on_device(_behind(requests), self._device).reshape(-1, 2).unbind(1)
        return partial(BlockForward._run_windows, run=run, num_open=num_open, rows=rows, places=places)

    def _run_windows(self, blocks: Tensor, run: "_Run", num_open: int, rows: Tensor, places: Tensor) -> Tensor:
        """Run a group with the blocks of each window side by side.

        Args:
            blocks: ``[B + G, T, hidden_size]`` those behind, then the front blocks.
            run: Runs the windows.
            num_open: Most blocks of a window.
            rows: ``[B]`` row of each block behind a front block.
            places: ``[B]`` its place in the window.
        """
        behind, front = blocks[: len(rows)], blocks[len(rows) :]
        windows = front.new_zeros(len(front), num_open, *front.shape[1:])
        windows[:, 0] = front
        windows[rows, places] = behind
        hidden = run(self, windows.flatten(1, 2)).view_as(windows)
        return torch.cat([hidden[rows, places], hidden[:, 0]])

    def _plan_padded(self, requests: Sequence[Request], first: int, num_pending: int, num_queries: int) -> "_Run":
        """Plan a group with the pending tokens of each request in front of its blocks, padded at both ends.

        Args:
            requests: The requests of the group.
            first: Row of the first one in the cache.
            num_pending: Most pending tokens of a request.
            num_queries: Queries of the open blocks of each request, or of the versions of its block.
        """
        length, num_rows = self._denoiser.block_length, len(requests)
        # Versions of a block have slots behind it.
        num_keys = max(request.open_end for request in requests) + self._num_queries - length

        # Compiled forwards have few shapes: idle rows, and keys that nothing attends to, pad to them.
        compiled = self._compile and num_pending == first == 0 and self._cache is not None
        if compiled:
            num_rows = min(_power_of_two(num_rows), self._num_rows)
            num_keys = min(_power_of_two(num_keys, 128), self._scratch_slot + 1)

        extents = [(request.num_cached, request.block_start, request.open_end) for request in requests]
        extents += [(0, 0, length)] * (num_rows - len(requests))
        group = PaddedGroup(tuple(extents), len(requests), first, num_pending, num_queries, num_keys)
        pending = self._pending_ids(requests, num_pending) if num_pending else None
        layout = self._layouts.padded(group)
        return partial(BlockForward._run_padded, layout=layout, pending=pending, compiled=compiled)

    def _run_padded(self, blocks: Tensor, layout: Layout, pending: Tensor | None, compiled: bool) -> Tensor:
        """Run a padded group.

        Args:
            blocks: ``[G, Q, hidden_size]`` the open blocks of each request, or the versions of its block.
            layout: Its layout.
            pending: ``[G, P]`` ids of the pending tokens.
            compiled: Whether to run the compiled forward, once the cache has its buffers.
        """
        inputs = blocks if pending is None else torch.cat([self._denoiser.embed(pending), blocks], 1)
        num_idle = len(layout.positions) - len(blocks)
        if num_idle:
            inputs = F.pad(inputs, (0, 0, 0, 0, 0, num_idle))
        hidden = self._hidden(layout, inputs, compiled and self._cache is not None and self._cache.is_filled)
        return hidden[: len(blocks), -blocks.shape[1] :] if num_idle or pending is not None else hidden

    def _plan_extra_rows(self, requests: Sequence[Request]) -> "_Run":
        """Plan the first group with a row for each block; those of pending blocks come first, then the open ones."""
        length = self._denoiser.block_length
        pending = [
            (row, start)
            for row, request in enumerate(requests)
            for start in range(request.num_cached, request.block_start, length)
        ]
        rows = [row for row, _ in pending] + [row for row, _ in _behind(requests)]
        starts = [start for _, start in pending]
        starts += [start for request in requests for start in request.open_starts[1:]]
        starts += [request.block_start for request in requests]
        num_keys = max(request.open_end for request in requests)
        layout = self._layouts.with_extra_rows(rows, starts, num_keys)
        ids = [requests[row].tokens[start : start + length] for row, start in pending]
        pending_ids = on_device(ids, self._device) if ids else None
        return partial(BlockForward._run_extra_rows, layout=layout, pending=pending_ids)

    def _run_extra_rows(self, blocks: Tensor, layout: Layout, pending: Tensor | None) -> Tensor:
        """Run the first group with a row for each block, those of pending blocks, ``[C, T]`` ids, in front."""
        if pending is None:
            return self._hidden(layout, blocks)
        return self._hidden(layout, torch.cat([self._denoiser.embed(pending), blocks]))[len(pending) :]

    def _hidden(self, layout: Layout, inputs: Tensor, compiled: bool = False) -> Tensor:
        if self._cache is not None:
            assert layout.placement is not None
            self._cache.placement = layout.placement
        run = self._denoiser.compiled_hidden if compiled else self._denoiser.hidden
        return run(layout.mask, layout.positions, self._cache, inputs_embeds=inputs)

    def _pending_ids(self, requests: Sequence[Request], num_pending: int) -> Tensor:
        """Return the pending tokens, ``[G, P]``, padded on the left."""
        pad_id = self._denoiser.special.pad_id
        ids = [[pad_id] * (num_pending - request.num_pending) + request.pending_tokens for request in requests]
        return on_device(ids, self._device)


# Runs a group. It does not hold the BlockForward: a cycle would keep the cache in memory after its last use.
_Run: TypeAlias = Callable[[BlockForward, Tensor], Tensor]


class _Part(NamedTuple):
    """A group of requests that share a forward: rows ``first`` to ``last`` (exclusive), and what runs it."""

    first: int
    last: int
    run: _Run


def _behind(requests: Sequence[Request]) -> list[tuple[int, int]]:
    """Return the row, and the place in its window, of each block behind a front block."""
    return [(row, place) for row, request in enumerate(requests) for place in range(1, request.num_open)]


def _power_of_two(number: int, least: int = 1) -> int:
    """Return the smallest power of two that is at least ``number`` and ``least``."""
    return 1 << (max(number, least) - 1).bit_length()
