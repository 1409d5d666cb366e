"""Fréchet decoding: a bound of the joint probability of all tokens committed together (Fast-dLLM++, 2606.02955)."""

import torch
from torch import Tensor

from dmaxlit.decoding.base import DECODERS, BlockState
from dmaxlit.decoding.committing import CommittingDecoder
from dmaxlit.decoding.proposal import Proposal, confidence_rank
from dmaxlit.errors import check_fraction

__all__ = ["FrechetDecoder"]


@DECODERS.register("frechet")
class FrechetDecoder(CommittingDecoder):
    """Commit the n most confident positions, as long as they jointly lead other tokens by more than ``delta``.

    With the confidences in descending order ``c_(1) >= c_(2) >= ...``, n is the largest number with
    ``sum_{j<=n} c_(j) - (n - 1) - (1 - c_(n)) > delta``, at least one. The first terms are Fréchet's lower bound of the
    joint probability of these n tokens, the last one an upper bound of that of any other n tokens there. With equal
    confidences it is the rule of ``factor`` for a factor of ``1 - delta``; it never commits fewer positions than that.

    Args:
        delta: In [0, 1]; larger commits fewer at a time, 1 one token at each forward.
        max_steps: Most forwards for one block, at least 1. Default: the block length, which always suffices.
    """

    def __init__(self, delta: float = 0.25, max_steps: int | None = None) -> None:
        super().__init__(max_steps)
        self.delta = check_fraction("delta", delta)

    def select(self, state: BlockState, proposal: Proposal, features: Tensor | None) -> Tensor:
        """Return the positions within the bound, which tightens along the order of confidence."""
        rank = confidence_rank(proposal, state.masked)
        doubt = torch.where(state.masked, 1 - proposal.confidence, torch.inf).gather(1, rank.argsort(1))
        within = doubt.cumsum(1) + doubt < 1 - self.delta
        return within.gather(1, rank)
