"""Greedy decoding of masked diffusion models, one token at each forward (LLaDA, arXiv 2502.09992)."""

from torch import Tensor

from dmaxlit.decoding.base import DECODERS, BlockState
from dmaxlit.decoding.committing import CommittingDecoder
from dmaxlit.decoding.proposal import Proposal, most_confident

__all__ = ["OneTokenDecoder"]


@DECODERS.register("one_token")
class OneTokenDecoder(CommittingDecoder):
    """Commit the single most confident masked position at each forward: the reference for all others.

    Args:
        max_steps: Most forwards for one block, at least 1. Default: the block length, which always suffices.
    """

    def select(self, state: BlockState, proposal: Proposal, features: Tensor | None) -> Tensor:
        """Return the most confident position."""
        return most_confident(proposal, state.masked)
