"""Training views: noisy blocks that attend to the clean copy of what comes before them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from dmaxlit.backbone.activation_checkpointing import can_checkpoint_with_cache, disable_cache_under_checkpointing
from dmaxlit.backbone.cache import CleanCache
from dmaxlit.backbone.packing import Layout, PackedAttention
from dmaxlit.backbone.sharding import is_sharded
from dmaxlit.backbone.soft_embedding import embed_with_soft_tokens
from dmaxlit.tokens import CleanBatch, SoftTokens

if TYPE_CHECKING:
    from dmaxlit.backbone.denoiser import Denoiser

__all__ = ["CleanContext", "clean_context", "denoise"]


@dataclass(frozen=True)
class CleanContext:
    """What the views of one clean batch attend to.

    Args:
        clean: The clean batch.
        layout: Where its blocks lie.
        cache: The clean half's keys and values, or None when each view is to run on the doubled sequence.
        anchor: A sum over the clean half's hidden states. FSDP brings a layer's weights back for the backward pass when
            a gradient reaches its output; the last layer's keys and values are used, its output is not. So views add
            the anchor times 0.
    """

    clean: CleanBatch
    layout: Layout
    cache: Cache | None = None
    anchor: Tensor | None = None


def clean_context(denoiser: Denoiser, clean: CleanBatch, doubled: bool) -> CleanContext:
    """See :meth:`Denoiser.clean_context`."""
    layout = Layout.of(clean)
    if doubled or (denoiser.model.is_activation_checkpointing and not can_checkpoint_with_cache(denoiser.model)):
        return CleanContext(clean, layout)
    cache, half = CleanCache(), layout.clean
    hidden = _hidden(denoiser, layout.clean_mask, half.position, half.take(clean.ids), None, cache)
    if not cache.layers:
        disable_cache_under_checkpointing(denoiser.model)
        return CleanContext(clean, layout)
    return CleanContext(clean, layout, cache.shown(), hidden.sum() if is_sharded(denoiser) else None)


def denoise(denoiser: Denoiser, view: Tensor, context: CleanContext, soft: SoftTokens | None) -> Tensor:
    """See :meth:`Denoiser.denoise`."""
    layout, noisy, clean = context.layout, context.layout.noisy, context.layout.clean
    ids = noisy.take(view)
    soft = None if soft is None else SoftTokens(noisy.take(soft.ids), noisy.take(soft.weights), noisy.take(soft.where))
    if context.cache is not None:
        hidden = _hidden(denoiser, layout.view_mask, noisy.position, ids, soft, context.cache)
        hidden = hidden if context.anchor is None else hidden + 0 * context.anchor
    else:
        width = clean.index.shape[1]
        ids = torch.cat([clean.take(context.clean.ids), ids], 1)
        soft = None if soft is None else soft.after(width)
        positions = torch.cat([clean.position, noisy.position], 1)
        hidden = _hidden(denoiser, layout.doubled_mask, positions, ids, soft)[:, width:]
    return hidden.flatten(0, 1)[layout.gather_index]


def _hidden(
    denoiser: Denoiser,
    allowed: PackedAttention,
    positions: Tensor,
    ids: Tensor,
    soft: SoftTokens | None,
    cache: Cache | None = None,
) -> Tensor:
    """Hidden states of ids, or of embeddings where some of them are mixtures."""
    if soft is None:
        return denoiser.training_hidden(allowed, positions, cache, input_ids=ids)
    return denoiser.training_hidden(
        allowed, positions, cache, inputs_embeds=embed_with_soft_tokens(denoiser.embed, ids, soft)
    )
