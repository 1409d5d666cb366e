"""One model forward for the current blocks of rows that are at different places of different sequences.

Shapes: G rows of a group, P pending tokens, T tokens of a block, K keys.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from dmaxlit.backbone.attention import block_diffusion_mask
from dmaxlit.backbone.cache import RowCache
from dmaxlit.backbone.denoiser import Denoiser
from dmaxlit.decoding.rows import Row

__all__ = ["BlockForward"]


class BlockForward:
    """Runs the denoiser on ``[pending tokens ; current block]`` of each row.

    Decided tokens without keys and values (the prompt of a new row, the block committed last) are *pending*. They ride
    as clean queries in their row's next forward, in front of the noisy block; the block-diffusion mask makes that
    exact, so neither prefill nor commit costs a forward of its own. Rows without pending tokens, the great majority,
    run as a group of their own, so that they carry no padding. Pending tokens come in whole blocks; rows with 1, 2,
    3-4, 5-8 ... pending blocks form one group each and are padded to its longest. Pad queries see the first block,
    write their keys to a scratch slot, and are seen by nobody.

    Args:
        denoiser: The model.
        rows: Rows that decode together.
        length: Longest sequence among all rows to come, in whole blocks.
        use_cache: Keep keys and values. False: every decided token is pending at every forward. Slow; same answers.
    """

    def __init__(self, denoiser: Denoiser, rows: int, length: int, use_cache: bool = True) -> None:
        self._denoiser = denoiser
        self._device = denoiser.embedding.device
        self._scratch = length
        layers = int(denoiser.model.config.num_hidden_layers)
        self._cache = RowCache(rows, length + 1, layers) if use_cache else None

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but the given ones (``[n]``, ascending)."""
        if self._cache is not None:
            self._cache.keep(rows)

    def __call__(self, rows: list[Row], block: Tensor) -> Tensor:
        """Hidden states of the current blocks, ``[R, T, width]``.

        Args:
            rows: All rows, in the order of the cache.
            block: ``[R, T, width]`` input embeddings of the current blocks.
        """
        groups: dict[int, list[int]] = {}
        for place, row in enumerate(rows):
            blocks = row.pending // row.block_length
            groups.setdefault((blocks - 1).bit_length() if blocks else -1, []).append(place)
        order = torch.tensor([place for places in groups.values() for place in places], device=self._device)
        if len(groups) == 1:
            hidden = self._group(rows, order, block)
        else:
            parts = [
                self._group([rows[place] for place in places], index, block.index_select(0, index))
                for places, index in zip(
                    groups.values(), torch.split(order, [len(places) for places in groups.values()]), strict=True
                )
            ]
            grouped = torch.cat(parts)
            hidden = torch.empty_like(grouped).index_copy_(0, order, grouped)
        if self._cache is not None:
            for row in rows:
                row.cached = row.start
        return hidden

    def _group(self, rows: list[Row], index: Tensor, block: Tensor) -> Tensor:
        """Forward of rows of one group; ``index`` are their places in the cache."""
        length, pending = block.shape[1], max(row.pending for row in rows)
        extent = torch.tensor([(row.cached, row.start) for row in rows], device=self._device)
        cached, start = extent[:, :1], extent[:, 1:]
        positions = start + torch.arange(-pending, length, device=self._device)
        real = positions >= cached
        inputs = block if pending == 0 else torch.cat([self._pending(rows, pending), block], 1)
        positions = positions.where(real, 0)

        q_block, current = positions // length, start // length
        if self._cache is None:
            k_block, is_key = q_block, real
        else:
            width = max(row.start for row in rows) + length
            self._cache.select(index, positions.where(real, self._scratch), width)
            k_block = (torch.arange(width, device=self._device) // length).expand(len(rows), -1)
            is_key = torch.ones_like(k_block, dtype=torch.bool)
        allowed = block_diffusion_mask(q_block, k_block, q_block == current, k_block == current)
        hidden = self._denoiser.hidden(allowed & is_key[:, None], positions, self._cache, inputs_embeds=inputs)
        return hidden[:, pending:]

    def _pending(self, rows: list[Row], pending: int) -> Tensor:
        """Embeddings of the pending tokens, ``[G, P, width]``, padded on the left."""
        pad = self._denoiser.special.pad
        ids = [[pad] * (pending - row.pending) + row.tokens[row.cached : row.start] for row in rows]
        return F.embedding(torch.tensor(ids, device=self._device), self._denoiser.embedding)
