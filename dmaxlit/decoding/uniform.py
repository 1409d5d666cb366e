"""Decoding of uniform diffusion models: everything is predicted again at each forward."""

import torch
from torch import Tensor

from dmaxlit.decoding.base import DECODERS, BlockState, Decoder
from dmaxlit.decoding.proposal import propose
from dmaxlit.tokens import SpecialTokens

__all__ = ["UniformDecoder"]


@DECODERS.register("uniform")
class UniformDecoder(Decoder):
    """Re-predict every position of the block at each forward until nothing changes.

    The block starts from masks; its first forward fills all of them. It is converged when a forward's top-1 tokens are
    those it was fed.

    Args:
        max_steps: Most forwards for one block, at least 1. Default: twice the block length; a fixed point may be
            reached no faster than one token at a time, and predictions that alternate for ever must end somewhere.
    """

    def step(self, state: BlockState, logits: Tensor, special: SpecialTokens) -> BlockState:
        """Write the top-1 token everywhere; converged when that changes nothing."""
        ids = torch.where(state.editable, propose(state, logits).tokens, state.ids)
        changed = state.masked | (ids != state.ids)
        return state.advance(ids, torch.zeros_like(state.masked), ~changed.any(1))

    def max_steps(self, block_length: int) -> int:
        """Most forwards spent on one block of that length."""
        return 2 * block_length if self._max_steps is None else self._max_steps
