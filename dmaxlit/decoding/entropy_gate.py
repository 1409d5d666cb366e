"""Cumulative-entropy gate: no commits behind too much undecided text (part of RPD)."""

import torch
from torch import Tensor

from dmaxlit.decoding.base import DECODERS, BlockState
from dmaxlit.decoding.committing import CommittingDecoder
from dmaxlit.decoding.proposal import Proposal, entropy, most_confident
from dmaxlit.errors import UserError, check_at_least, check_fraction

__all__ = ["EntropyGateDecoder"]


@DECODERS.register("entropy_gate")
class EntropyGateDecoder(CommittingDecoder):
    """Commit confident positions from left to right while the entropy of the masks left behind is at most ``beta``.

    A masked position is committed if its confidence is above ``threshold`` and the entropies of the earlier positions
    of the block that stay masked sum up to at most ``beta``. If none is, the most confident of the first ``first``
    masks is. With a ``first`` of 1, a ``beta`` of 0 commits a prefix (unless the positions left behind are certain);
    with one of at least the block length, a large ``beta`` is threshold decoding. RPD chooses its candidates by the
    agreement of the model's layers as well; here confidence alone does, and the defaults are ours.

    Args:
        beta: Bound in nats, at least 0.
        threshold: In [0, 1].
        first: Masks from which one is chosen if the gate admits none, counted from the left, at least 1.
        max_steps: Most forwards for one block, at least 1. Default: the block length, which always suffices.
    """

    def __init__(self, beta: float = 1.0, threshold: float = 0.9, first: int = 4, max_steps: int | None = None) -> None:
        super().__init__(max_steps)
        if not beta >= 0:
            raise UserError(f"beta: expected a number of at least 0, got {beta}")
        check_at_least(1, first=first)
        self.beta, self.threshold, self.first = beta, check_fraction("threshold", threshold), first

    def features(self, logits: Tensor) -> Tensor:
        """Return the entropy."""
        return entropy(logits).unsqueeze(-1)

    def select(self, state: BlockState, proposal: Proposal, features: Tensor | None) -> Tensor:
        """Return the confident positions before the gate closes, or else the best of the first masks."""
        assert features is not None
        candidates = state.masked & (proposal.confidence > self.threshold)
        # The gate stays closed once it is, so the candidates that stay masked need not be added.
        left = torch.where(state.masked & ~candidates, features[..., 0], 0.0)
        before = torch.cat([torch.zeros_like(left[:, :1]), left.cumsum(1)[:, :-1]], 1)
        admitted = candidates & (before <= self.beta)
        first = state.masked & (state.masked.cumsum(1) <= self.first)
        best = most_confident(proposal, first)
        return torch.where(admitted.any(1, keepdim=True), admitted, best)
