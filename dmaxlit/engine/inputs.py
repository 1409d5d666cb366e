"""Input embeddings of the blocks that are decoded."""

from collections.abc import Callable

import torch
from torch import Tensor

from dmaxlit.backbone.soft_embedding import embed_with_soft_tokens
from dmaxlit.decoding.base import BlockState


def input_embeddings(embed: Callable[[Tensor], Tensor], state: BlockState) -> Tensor:
    """Compute the input embeddings of the next forward, ``[R, (1 + C) T, hidden_size]``.

    The block comes first: soft tokens where the state has some, else tokens. The state's C extra blocks follow.

    Args:
        embed: Maps token ids ``[...]`` to their embeddings ``[..., hidden_size]``.
        state: R blocks of T tokens.
    """
    block = embed_with_soft_tokens(embed, state.ids, state.soft)
    if state.extra_blocks is None:
        return block
    return torch.cat([block, embed(state.extra_blocks.flatten(1))], 1)
