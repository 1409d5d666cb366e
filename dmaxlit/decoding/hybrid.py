"""Hybrid embeddings: how a mixture of tokens enters the model (DMax, arXiv 2604.08302, Section 3.2, Eqs. 7-10)."""

from collections.abc import Callable

import torch
from torch import Tensor

from dmaxlit.decoding.base import BlockState, SoftTokens

__all__ = ["blend", "input_embeddings"]

_SHORTEST = 1e-12  # far below any embedding's norm; keeps a vanishing average at 0 instead of 0 / 0


def blend(embed: Callable[[Tensor], Tensor], soft: SoftTokens) -> Tensor:
    """Embeddings of mixtures, ``[R, T, width]``.

    ``e = sum_k w_k E[v_k]``, rescaled to the norm ``sum_k w_k ||E[v_k]||``: a plain average of nearly orthogonal
    vectors would be shorter than anything the model was trained on. Where the average vanishes, so does the result.

    Args:
        embed: What the model is fed for token ids ``[...]``: ``[..., width]``.
        soft: The mixtures; ``where`` plays no part.
    """
    embedded = embed(soft.ids)
    parts = embedded.to(torch.promote_types(embedded.dtype, torch.float32))
    weights = soft.weights.to(parts.dtype).unsqueeze(-1)
    mixed = (weights * parts).sum(-2)
    norm = (weights * torch.linalg.vector_norm(parts, dim=-1, keepdim=True)).sum(-2)
    length = torch.linalg.vector_norm(mixed, dim=-1, keepdim=True).clamp_min(_SHORTEST)
    blended: Tensor = mixed * (norm / length)
    return blended.to(embedded.dtype)


def input_embeddings(embed: Callable[[Tensor], Tensor], state: BlockState) -> Tensor:
    """What the model is fed for the blocks of ``state``, ``[R, (1 + C) T, width]``, the canvas first.

    Mixtures where the state has them, else tokens.
    """
    canvas = embed(state.ids)
    if state.soft is not None:
        canvas = torch.where(state.soft.where.unsqueeze(-1), blend(embed, state.soft), canvas)
    if state.copies is None:
        return canvas
    return torch.cat([canvas, embed(state.copies.flatten(1))], 1)
