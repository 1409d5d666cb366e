"""Soft tokens: how a mixture of tokens enters the model (DMax, arXiv 2604.08302, Section 3.2, Eqs. 7-10).

Decoders feed them (:class:`dmaxlit.decoding.BlockState`), and noise strategies train on them
(:class:`dmaxlit.noise.View`). Shapes: R rows, T positions, K tokens that are mixed.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from dmaxlit.tokens import SoftTokens

__all__ = ["embed_with_soft_tokens", "hybrid_embedding"]

_SHORTEST = 1e-12  # far below any embedding's norm; keeps a vanishing average at 0 instead of 0 / 0


def hybrid_embedding(embed: Callable[[Tensor], Tensor], soft: SoftTokens) -> Tensor:
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


def embed_with_soft_tokens(embed: Callable[[Tensor], Tensor], ids: Tensor, soft: SoftTokens | None) -> Tensor:
    """Embeddings of a canvas, ``[R, T, width]``: mixtures where there are some, else tokens.

    Args:
        embed: What the model is fed for token ids.
        ids: ``[R, T]`` token ids.
        soft: The mixtures, or None for the tokens alone.
    """
    canvas = embed(ids)
    return canvas if soft is None else torch.where(soft.where.unsqueeze(-1), hybrid_embedding(embed, soft), canvas)
