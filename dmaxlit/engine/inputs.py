"""What the model is fed for a state: tokens, mixtures of tokens (hybrid embeddings), and further versions."""

from collections.abc import Callable

import torch
from torch import Tensor

from dmaxlit.backbone.soft_embedding import embed_with_soft_tokens, hybrid_embedding
from dmaxlit.decoding.base import BlockState

__all__ = ["hybrid_embedding", "input_embeddings"]


def input_embeddings(embed: Callable[[Tensor], Tensor], state: BlockState) -> Tensor:
    """What the model is fed for the blocks of ``state``, ``[R, (1 + C) T, width]``, the canvas first.

    Mixtures where the state has them, else tokens.
    """
    canvas = embed_with_soft_tokens(embed, state.ids, state.soft)
    if state.extra_blocks is None:
        return canvas
    return torch.cat([canvas, embed(state.extra_blocks.flatten(1))], 1)
