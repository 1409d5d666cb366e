"""Training passes: noisy blocks that attend to the clean copy of the blocks before them.

The clean copy of a batch is computed once and all of its views attend to it (BD3-LM, arXiv 2503.09573, Section 3.2).
"""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from dmaxlit.backbone.activation_checkpointing import can_checkpoint_with_cache, disable_cache_under_checkpointing
from dmaxlit.backbone.cache import CleanCache
from dmaxlit.backbone.denoiser import Denoiser
from dmaxlit.backbone.eval_mode import evaluating, has_dropout
from dmaxlit.backbone.packing import Layout, PackedAttention
from dmaxlit.backbone.sharding import is_sharded
from dmaxlit.tokens import CleanBatch, SoftTokens

__all__ = ["TrainingForward"]


class TrainingForward:
    """The training passes over one clean batch: that of its clean copy, then one for each view.

    Args:
        denoiser: The denoiser.
        clean: The clean batch.
        doubled: Compute the clean copy again with every view, as one doubled sequence: the reference form. It is also
            used where layers that are recomputed in the backward pass cannot have a cache
            (:mod:`dmaxlit.backbone.activation_checkpointing`).
    """

    def __init__(self, denoiser: Denoiser, clean: CleanBatch, doubled: bool = False) -> None:
        self._denoiser = denoiser
        self.clean = clean
        self._layout = Layout.of(clean)
        self._grouped: tuple[Tensor, Layout] | None = None
        self._cache: Cache | None = None
        self._without_dropout: TrainingForward | None = None
        # FSDP gathers a layer's weights for the backward pass when a gradient reaches the layer's output. Views use the
        # last layer's keys and values but not its output, so they add this sum over it, times 0.
        self._anchor: Tensor | None = None
        self._recomputed = denoiser.model.is_activation_checkpointing  # looked for once, among all modules
        if not doubled and (not self._recomputed or can_checkpoint_with_cache(denoiser.model)):
            self._compute_clean_copy()

    @property
    def is_cached(self) -> bool:
        """Whether views attend to a clean copy that is computed once."""
        return self._cache is not None

    def __call__(
        self, ids: Tensor, soft: SoftTokens | None = None, groups: Tensor | None = None, at: Tensor | None = None
    ) -> Tensor:
        """Compute the hidden states of a corrupted view, ``[B, L, width]``, or ``[n, width]`` of n positions.

        They are meaningful in blocks with response tokens.

        Args:
            ids: ``[B, L]`` token ids of the view.
            soft: Soft tokens to feed at some of its positions.
            groups: ``[B, blocks]`` group of each block; see :class:`~dmaxlit.noise.View`.
            at: ``[B, L]`` bool, the positions that are wanted. Default: all.
        """
        layout = self._layout if groups is None else self._layout_of(groups)
        clean, noisy = layout.clean, layout.noisy
        inputs = noisy.take(ids)
        if soft is not None:
            soft = replace(
                soft, ids=noisy.take(soft.ids), weights=noisy.take(soft.weights), where=noisy.take(soft.where)
            )
        if self._cache is not None:
            hidden = self._hidden(layout.view_mask, noisy.position, inputs, soft, self._cache)
            hidden = hidden if self._anchor is None else hidden + 0 * self._anchor
        else:
            width = clean.index.shape[1]
            inputs = torch.cat([clean.take(self.clean.ids), inputs], 1)
            soft = None if soft is None else soft.after(width)
            positions = torch.cat([clean.position, noisy.position], 1)
            hidden = self._hidden(layout.doubled_mask, positions, inputs, soft)[:, width:]
        return hidden.flatten(0, 1)[layout.gather_index if at is None else layout.gather_index[at]]

    def evaluate(
        self, ids: Tensor, soft: SoftTokens | None = None, groups: Tensor | None = None, at: Tensor | None = None
    ) -> Tensor:
        """Compute the same without gradients and without dropout, in whatever mode the model is.

        Of a model that is training with dropout the clean copy is computed once more, without; of another nothing is.

        Args:
            ids: ``[B, L]`` token ids of the view.
            soft: Soft tokens to feed at some of its positions.
            groups: ``[B, blocks]`` group of each block.
            at: ``[B, L]`` bool, the positions that are wanted. Default: all.
        """
        with torch.no_grad():
            if not self._has_dropout:
                return self(ids, soft, groups, at)
            with evaluating(self._denoiser.modules()):
                if self._without_dropout is None:
                    self._without_dropout = copy.copy(self)  # with the same layout and masks
                    if self.is_cached:
                        self._without_dropout._compute_clean_copy()
                return self._without_dropout(ids, soft, groups, at)

    @cached_property
    def _has_dropout(self) -> bool:
        """Whether the model computes with dropout; looked for once, among all of its modules."""
        return has_dropout(self._denoiser.model)

    def _layout_of(self, groups: Tensor) -> Layout:
        """Return the layout in groups; views with the same tensor share its masks."""
        if self._grouped is None or self._grouped[0] is not groups:
            self._grouped = groups, self._layout.grouped(groups, self.clean.block_length)
        return self._grouped[1]

    def _compute_clean_copy(self) -> None:
        cache, clean = CleanCache(), self._layout.clean
        hidden = self._hidden(self._layout.clean_mask, clean.position, clean.take(self.clean.ids), None, cache)
        if not cache.layers:  # the model has dropped the cache
            disable_cache_under_checkpointing(self._denoiser.model)
            return
        self._cache = cache.view_cache()
        if is_sharded(self._denoiser):
            self._anchor = hidden.sum()

    def _hidden(
        self,
        allowed: PackedAttention,
        positions: Tensor,
        ids: Tensor,
        soft: SoftTokens | None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Compute the hidden states of ids, some of which soft tokens may replace."""
        return self._denoiser.training_hidden(
            allowed, positions, cache, input_ids=ids, soft=soft, recomputed=self._recomputed
        )
