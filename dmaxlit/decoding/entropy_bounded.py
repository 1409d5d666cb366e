"""Entropy-bounded decoding (EB-Sampler, arXiv 2505.24857)."""

from typing import Literal

import torch
from torch import Tensor

from dmaxlit.decoding.base import DECODERS, BlockState
from dmaxlit.decoding.committing import CommittingDecoder
from dmaxlit.decoding.proposal import Proposal, descending_rank, entropy
from dmaxlit.errors import UserError, check_choice

__all__ = ["EntropyBoundedDecoder"]

_TINY = 1e-30
_PROXIES = ("entropy", "confidence", "margin")


@DECODERS.register("entropy_bounded")
class EntropyBoundedDecoder(CommittingDecoder):
    """Commit the most certain positions U within ``sum of H over U - max of H over U <= gamma``, at least one.

    ``H`` is the entropy of a position's distribution in nats. The left side is an upper bound of what is lost by
    deciding the positions of U independently. Positions are added in the order of an error proxy; 0 commits one token
    at a time unless others are certain.

    Args:
        gamma: Bound in nats, at least 0.
        proxy: Order of the positions: ``entropy``, ``confidence`` (its complement) or ``margin`` (how little the best
            token leads the second).
        max_steps: Most forwards for one block, at least 1. Default: the block length, which always suffices.
    """

    def __init__(
        self,
        gamma: float = 0.1,
        proxy: Literal["entropy", "confidence", "margin"] = "entropy",
        max_steps: int | None = None,
    ) -> None:
        super().__init__(max_steps)
        if not gamma >= 0:
            raise UserError(f"gamma: expected a number of at least 0, got {gamma}")
        check_choice("proxy", proxy, _PROXIES)
        self.gamma, self.proxy = gamma, proxy

    @property
    def reads_confidence(self) -> bool:
        """Whether confidence is the proxy; the others, and the bound, are computed of the logits."""
        return self.proxy == "confidence"

    def features(self, logits: Tensor) -> Tensor:
        """Return the entropy, and ``1 - (p_1 - p_2)`` of the two best tokens if the proxy is the margin."""
        uncertainty = entropy(logits)
        if self.proxy != "margin":
            return uncertainty.unsqueeze(-1)
        best, second = logits.to(uncertainty.dtype).softmax(-1).topk(2, dim=-1).values.unbind(-1)
        return torch.stack([uncertainty, 1 - best + second], -1)

    def select(self, state: BlockState, proposal: Proposal, features: Tensor | None) -> Tensor:
        """Return the longest prefix of the proxy's order within the bound, whose left side only grows along it."""
        assert features is not None
        uncertainty = features[..., 0]
        # Logarithms keep nearly certain positions apart.
        error = -proposal.log_odds if self.proxy == "confidence" else features[..., -1].clamp_min(_TINY).log()
        error = torch.where(state.masked, error, torch.inf)
        rank = descending_rank(-error)
        # The bound along that order, and back to positions.
        order = rank.argsort(1)
        ordered = torch.where(state.masked, uncertainty, torch.inf).gather(1, order)
        loss_bound = ordered.cumsum(1) - ordered.cummax(1).values
        return (loss_bound <= self.gamma).gather(1, rank)
