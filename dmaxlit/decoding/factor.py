"""Factor decoding: the number of tokens to commit depends on their joint confidence (Fast-dLLM, arXiv 2505.22618)."""

from torch import Tensor

from dmaxlit.decoding.base import DECODERS, BlockState
from dmaxlit.decoding.committing import CommittingDecoder
from dmaxlit.decoding.proposal import Proposal, confidence_rank
from dmaxlit.errors import UserError

__all__ = ["FactorDecoder"]


@DECODERS.register("factor")
class FactorDecoder(CommittingDecoder):
    """Commit the n most confident positions, n the largest with ``(n + 1) (1 - c_(n)) < factor``, at least one.

    ``c_(n)`` is the n-th largest confidence. With a factor of 1 the tokens committed together are provably the most
    probable ones jointly, not only individually.

    Args:
        factor: Above 0; larger commits more at a time.
        max_steps: Most forwards for one block, at least 1. Default: the block length, which always suffices.
    """

    def __init__(self, factor: float = 1.0, max_steps: int | None = None) -> None:
        super().__init__(max_steps)
        if not factor > 0:
            raise UserError(f"factor: expected a number above 0, got {factor}")
        self.factor = factor

    def select(self, state: BlockState, proposal: Proposal, features: Tensor | None) -> Tensor:
        """Return the positions of rank n (from 1) within the bound; it tightens with n, so they are the first ones."""
        n = confidence_rank(proposal, state.masked) + 1
        return (n + 1) * (1 - proposal.confidence) < self.factor
