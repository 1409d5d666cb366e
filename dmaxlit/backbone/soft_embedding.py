"""Embeddings of soft tokens, mixtures of tokens (DMax, arXiv 2604.08302, Section 3.2, Eqs. 7-10).

Decoders feed them (:class:`dmaxlit.decoding.BlockState`), and noise strategies train on them
(:class:`dmaxlit.noise.View`). Shapes: R rows, T positions, K tokens that are mixed.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from dmaxlit.tokens import SoftTokens

_SHORTEST = 1e-12  # far below any embedding's norm; keeps a vanishing average at 0 instead of 0 / 0
_NARROWEST = 1e-6  # radians; at smaller angles the arc is a line


def hybrid_embedding(embed: Callable[[Tensor], Tensor], soft: SoftTokens) -> Tensor:
    """Compute the embeddings of mixtures, ``[R, T, width]``.

    ``e = sum_k w_k E[v_k]``, rescaled to the norm ``sum_k w_k ||E[v_k]||``: a plain average of nearly orthogonal
    vectors would be shorter than anything the model was trained on. Where the average vanishes, so does the result.

    With ``soft.slerp`` the direction, not the norm, is another one: on the arc from the last token's to that of the
    others' average, at the others' total weight of its angle ("Lost in Interpolation", arXiv 2608.06529). That paper
    feeds it at masks, at the norm of the mask; at the norm above, a token of weight 1 is fed as it is.

    Args:
        embed: Returns the model's input, ``[..., width]``, for token ids ``[...]``.
        soft: The mixtures; ``where`` is ignored.
    """
    embedded = embed(soft.ids)
    vectors = embedded.to(torch.promote_types(embedded.dtype, torch.float32))
    weights = soft.weights.to(vectors.dtype).unsqueeze(-1)
    average = _on_arc(vectors, weights) if soft.slerp else (weights * vectors).sum(-2)
    norm = (weights * torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)).sum(-2)
    length = torch.linalg.vector_norm(average, dim=-1, keepdim=True).clamp_min(_SHORTEST)
    hybrid: Tensor = average * (norm / length)
    return hybrid.to(embedded.dtype)


def _on_arc(vectors: Tensor, weights: Tensor) -> Tensor:
    """Compute the direction between the last vector and the weighted sum of the others, ``[R, T, width]``, unscaled.

    Args:
        vectors: ``[R, T, K, width]``.
        weights: ``[R, T, K, 1]`` with sum 1.
    """
    share = weights[..., :-1, :].sum(-2)
    one, other = vectors[..., -1, :], (weights * vectors)[..., :-1, :].sum(-2)
    one, other = (x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(_SHORTEST) for x in (one, other))
    # Exact at small angles, where the arc cosine is not.
    chord, diagonal = (torch.linalg.vector_norm(x, dim=-1, keepdim=True) for x in (one - other, one + other))
    angle = (2 * torch.atan2(chord, diagonal)).clamp_min(_NARROWEST)
    # The common divisor, sin(angle), does not change the direction.
    direction: Tensor = ((1 - share) * angle).sin() * one + (share * angle).sin() * other
    return direction


def embed_with_soft_tokens(embed: Callable[[Tensor], Tensor], ids: Tensor, soft: SoftTokens | None) -> Tensor:
    """Compute the embeddings of a sequence with soft tokens, ``[R, T, width]``.

    Args:
        embed: Returns the model's input for token ids.
        ids: ``[R, T]`` token ids.
        soft: The soft tokens that replace some of them, or None.
    """
    hard = embed(ids)
    return hard if soft is None else torch.where(soft.where.unsqueeze(-1), hybrid_embedding(embed, soft), hard)
