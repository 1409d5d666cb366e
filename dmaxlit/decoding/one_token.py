"""Greedy decoding of masked diffusion models, one token at each forward (LLaDA, arXiv 2502.09992)."""

import torch
from torch import Tensor

from dmaxlit.decoding.base import DECODERS, BlockState
from dmaxlit.decoding.committing import CommittingDecoder
from dmaxlit.decoding.proposal import Proposal

__all__ = ["OneTokenDecoder"]


@DECODERS.register("one_token")
class OneTokenDecoder(CommittingDecoder):
    """Commit the single most confident masked position at each forward: the reference that others are measured by.

    Args:
        max_steps: Most forwards for one block, at least 1. Default: the block length, which always suffices.
    """

    def commit(self, state: BlockState, proposal: Proposal, features: Tensor | None) -> Tensor:
        """None: the most confident one is then taken."""
        return torch.zeros_like(state.masked)
