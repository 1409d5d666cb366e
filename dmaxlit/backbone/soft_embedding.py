"""Embeddings of soft tokens, mixtures of tokens (DMax, arXiv 2604.08302, Section 3.2, Eqs. 7-10).

Decoders feed them (:class:`dmaxlit.decoding.BlockState`), and noise strategies train on them
(:class:`dmaxlit.noise.View`). Shapes: R rows, T positions, K tokens that are mixed.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from dmaxlit.tokens import SoftTokens

_SHORTEST = 1e-12  # far below any embedding's norm; keeps a vanishing average at 0 instead of 0 / 0


def hybrid_embedding(embed: Callable[[Tensor], Tensor], soft: SoftTokens) -> Tensor:
    """Compute the embeddings of mixtures, ``[R, T, width]``.

    ``e = sum_k w_k E[v_k]``, rescaled to the norm ``sum_k w_k ||E[v_k]||``: a plain average of nearly orthogonal
    vectors would be shorter than anything the model was trained on. Where the average vanishes, so does the result.

    Args:
        embed: Returns the model's input, ``[..., width]``, for token ids ``[...]``.
        soft: The mixtures; ``where`` is ignored.
    """
    embedded = embed(soft.ids)
    vectors = embedded.to(torch.promote_types(embedded.dtype, torch.float32))
    weights = soft.weights.to(vectors.dtype).unsqueeze(-1)
    average = (weights * vectors).sum(-2)
    norm = (weights * torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)).sum(-2)
    length = torch.linalg.vector_norm(average, dim=-1, keepdim=True).clamp_min(_SHORTEST)
    hybrid: Tensor = average * (norm / length)
    return hybrid.to(embedded.dtype)


def embed_with_soft_tokens(embed: Callable[[Tensor], Tensor], ids: Tensor, soft: SoftTokens | None) -> Tensor:
    """Compute the embeddings of a sequence with soft tokens, ``[R, T, width]``.

    Args:
        embed: Returns the model's input for token ids.
        ids: ``[R, T]`` token ids.
        soft: The soft tokens that replace some of them, or None.
    """
    hard = embed(ids)
    return hard if soft is None else torch.where(soft.where.unsqueeze(-1), hybrid_embedding(embed, soft), hard)
