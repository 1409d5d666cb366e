"""What the model is fed for a state: tokens, mixtures of tokens (hybrid embeddings), and further versions."""

import torch
from torch import Tensor
from torch.nn import functional as F

from dmaxlit.decoding.base import BlockState
from dmaxlit.soft import blend, embed

__all__ = ["blend", "input_embeddings"]


def input_embeddings(table: Tensor, state: BlockState) -> Tensor:
    """What the model is fed for the blocks of ``state``, ``[R, (1 + C) T, width]``, the canvas first.

    Mixtures where the state has them, else tokens.
    """
    canvas = embed(table, state.ids, state.soft)
    if state.copies is None:
        return canvas
    return torch.cat([canvas, F.embedding(state.copies.flatten(1), table)], 1)
