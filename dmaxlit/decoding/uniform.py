"""Decoding of uniform diffusion models: every position is re-predicted at each forward."""

import torch
from torch import Tensor

from dmaxlit.decoding.base import DECODERS, BlockState, Decoder
from dmaxlit.decoding.proposal import propose
from dmaxlit.tokens import SpecialTokens

__all__ = ["UniformDecoder"]


@DECODERS.register("uniform")
class UniformDecoder(Decoder):
    """Re-predict every position of the block at each forward until nothing changes.

    The block starts from masks; its first forward fills all of them. It has converged when the top-1 tokens of a
    forward equal its input.

    Args:
        max_steps: Most forwards for one block, at least 1. Default: twice the block length: a fixed point may be
            reached no faster than one token at a time, and alternating predictions must end.
    """

    max_steps_per_token = 2

    def step(self, state: BlockState, logits: Tensor, special: SpecialTokens) -> BlockState:
        """Write the top-1 token everywhere; converged when that changes nothing."""
        ids = torch.where(state.editable, propose(state, logits).tokens, state.ids)
        changed = state.masked | (ids != state.ids)
        return state.advance(ids, torch.zeros_like(state.masked), ~changed.any(1))
