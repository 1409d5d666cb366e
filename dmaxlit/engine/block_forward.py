"""One model forward for the current blocks of rows that are at different places of different sequences.

Shapes: G rows of a group, P pending tokens, T tokens of a block, N versions of the block, K keys.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dmaxlit.backbone.attention import block_diffusion_mask
from dmaxlit.backbone.cache import RowCache
from dmaxlit.backbone.denoiser import Denoiser
from dmaxlit.engine.batching import arrange, groups
from dmaxlit.engine.request import Request

__all__ = ["BlockForward"]


class BlockForward:
    """Runs the denoiser on ``[pending tokens ; current block]`` of each row.

    Decided tokens without keys and values (the prompt of a new row, the block committed last) are *pending*. They ride
    as clean queries in their row's next forward, in front of the noisy block; the block-diffusion mask makes that
    exact, so neither prefill nor commit costs a forward of its own. Pending tokens come in whole blocks; rows with 2,
    3-4, 5-8 ... of them form one group each and are padded to its longest. Pad queries see the first block, write their
    keys to a scratch slot, and are seen by nobody.

    The great majority has no pending tokens, and of the others most have the block committed last. They share a forward
    without padding: that block is a twin of its row, a row more that reads the same keys. The cache has room for half
    as many twins as rows; if more than half of the rows have one, all are padded instead. Without cache, compiled, or
    with several versions of a block there are no twins, and rows with one pending block are a group as above.

    A decoder may read several versions of a block at once. They are queries of one row at the same positions; their
    keys lie behind the block's in the cache until the next block takes the place.

    Args:
        denoiser: The model.
        rows: Rows that decode together.
        length: Longest sequence among all rows to come, in whole blocks.
        use_cache: Keep keys and values. False: every decided token is pending at every forward. Slow; same answers.
        block_attention_mask: ``[N T, N T]`` bool, who sees whom among the versions of a block. Default: one version, which sees itself.
        compile: Run the forwards without pending tokens compiled, in shapes that are few: rows and keys are filled up
            to powers of two.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        rows: int,
        length: int,
        use_cache: bool = True,
        block_attention_mask: Tensor | None = None,
        compile: bool = False,
    ) -> None:
        self._denoiser = denoiser
        self._device = denoiser.device
        self._width = denoiser.block_length if block_attention_mask is None else block_attention_mask.shape[0]
        self._sees = block_attention_mask
        self._scratch = length - denoiser.block_length + self._width
        layers = int(denoiser.model.config.num_hidden_layers)
        self._compile = compile
        self._rows = _power_of_two(rows) if compile else rows
        self._twins = rows // 2 if use_cache and block_attention_mask is None and not compile else 0
        self._cache = (
            RowCache(self._rows, self._scratch + 1, layers, static=compile, spare=self._twins) if use_cache else None
        )

    def arranged(self, rows: Sequence[Request], left: Sequence[int]) -> list[int]:
        """Order in which rows that share a forward are neighbours; see :func:`~dmaxlit.engine.batching.arrange`."""
        return arrange(rows, left, self._twins > 0)

    def arrange(self, rows: Sequence[int]) -> None:
        """Keep the given rows, in this order."""
        if self._cache is not None:
            self._cache.arrange(rows)

    def __call__(self, rows: Sequence[Request], block: Tensor) -> Tensor:
        """Hidden states of the current blocks, ``[R, N T, width]``.

        Args:
            rows: All rows, in the order of the cache; see :meth:`arranged`.
            block: ``[R, N T, width]`` input embeddings of the current blocks, one version after the other.
        """
        parts = [
            self._group(rows[first:last], first, block[first:last]) for first, last in groups(rows, self._twins > 0)
        ]
        if self._cache is not None:
            for row in rows:
                row.cached = row.start
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _group(self, rows: Sequence[Request], first: int, block: Tensor) -> Tensor:
        """Forward of neighbours of one group, the first of them at place ``first`` in the cache."""
        length, pending = self._denoiser.block_length, max(row.pending for row in rows)
        twins = [place for place, row in enumerate(rows) if row.pending] if pending == length else []
        # Beyond half of the rows it costs no more to pad them all.
        if self._twins and first == 0 and 0 < 2 * len(twins) <= len(rows):
            return self._with_twins(rows, twins, block)
        inputs = block if pending == 0 else torch.cat([self._pending(rows, pending), block], 1)
        count, width = len(rows), max(row.start for row in rows) + self._width
        static = self._compile and pending == first == 0 and self._cache is not None and self._cache.is_filled
        if static:  # a few fixed shapes, each compiled once: idle rows and keys that nobody sees fill them up
            count, width = min(_power_of_two(count), self._rows), min(_power_of_two(width, 128), self._scratch + 1)
            inputs = F.pad(inputs, (0, 0, 0, 0, 0, count - len(rows)))
        extent = [(row.cached, row.start) for row in rows] + [(0, 0)] * (count - len(rows))
        cached, start = torch.tensor(extent, device=self._device).T.unsqueeze(-1)
        offsets = torch.arange(-pending, self._width, device=self._device)
        slots = start + offsets
        real = slots >= cached
        positions = torch.where(real, start + torch.where(offsets < 0, offsets, offsets % length), 0)

        if self._cache is None:
            key_offsets, is_key = offsets.expand(count, -1), real
        else:
            written = slots.where(real, self._scratch)
            written[len(rows) :] = self._scratch
            self._cache.select(slice(first, first + count), written, width)
            key_offsets = torch.arange(width, device=self._device) - start
            is_key = key_offsets < self._width
        if pending == 0 and self._sees is None:  # a block alone sees itself and all before it
            allowed = is_key[:, None]
        else:
            allowed = is_key[:, None] & self._allowed(offsets.expand(count, -1), key_offsets, start // length, real)
        run = self._denoiser.compiled_hidden if static else self._denoiser.hidden
        return run(allowed, positions, self._cache, inputs_embeds=inputs)[: len(rows), pending:]

    def _with_twins(self, rows: Sequence[Request], twins: list[int], block: Tensor) -> Tensor:
        """Forward of the first rows, some of which have one pending block that is read as a row of its own."""
        assert self._cache is not None
        length, width = self._denoiser.block_length, max(row.start for row in rows) + self._width
        ahead = [rows[place] for place in twins]
        inputs = torch.cat([self._pending(ahead, length), block])
        start = torch.tensor([row.cached for row in ahead] + [row.start for row in rows], device=self._device)
        slots = start.unsqueeze(1) + torch.arange(length, device=self._device)
        self._cache.select(slice(0, len(rows)), slots, width, torch.tensor(twins, device=self._device))
        is_key = torch.arange(width, device=self._device) < start.unsqueeze(1) + length
        return self._denoiser.hidden(is_key[:, None], slots, self._cache, inputs_embeds=inputs)[len(twins) :]

    def _allowed(self, queries: Tensor, keys: Tensor, current: Tensor, real: Tensor) -> Tensor:
        """Who may attend to whom, ``[G, Q, K]``.

        Args:
            queries: ``[G, Q]`` slot of each query, counted from the row's current block.
            keys: ``[G, K]`` slot of each key, counted likewise.
            current: ``[G, 1]`` number of the row's current block.
            real: ``[G, Q]`` bool, False for pad queries.
        """
        length = self._denoiser.block_length
        # Pad queries count as the first block, so that they have keys to see.
        q_block = torch.where(real, current + (queries // length).clamp(max=0), 0)
        k_block = current + (keys // length).clamp(max=0)
        q_noisy, k_noisy = q_block == current, k_block == current
        allowed = block_diffusion_mask(q_block, k_block, q_noisy, k_noisy)
        if self._sees is None:
            return allowed
        q_place, k_place = queries[0].clamp(min=0), keys.clamp(0, self._width - 1)
        block_attention_mask = self._sees[q_place][:, k_place].transpose(0, 1)
        both = (q_noisy & (queries >= 0)).unsqueeze(-1) & k_noisy.unsqueeze(-2)
        return allowed & (block_attention_mask | ~both)

    def _pending(self, rows: Sequence[Request], pending: int) -> Tensor:
        """Embeddings of the pending tokens, ``[G, P, width]``, padded on the left."""
        pad = self._denoiser.special.pad_id
        ids = [[pad] * (pending - row.pending) + row.tokens[row.cached : row.start] for row in rows]
        return self._denoiser.embed(torch.tensor(ids, device=self._device))


def _power_of_two(number: int, least: int = 1) -> int:
    """The smallest power of two that is at least ``number`` and ``least``."""
    return 1 << (max(number, least) - 1).bit_length()
