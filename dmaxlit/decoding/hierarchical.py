"""Hierarchical decoding: divide the masks by what is decided between them (Hierarchy-dLLM, ICLR 2026)."""

import torch
from torch import Tensor

from dmaxlit.decoding.base import DECODERS, BlockState, Decoder
from dmaxlit.decoding.committing import confidence_rank
from dmaxlit.decoding.proposal import propose, token_probability
from dmaxlit.errors import UserError, check_fraction
from dmaxlit.tokens import SpecialTokens

__all__ = ["HierarchicalDecoder"]


@DECODERS.register("hierarchical")
class HierarchicalDecoder(Decoder):
    """Commit what is sure, and in each run of masks without anything sure its best token, so that runs are divided.

    At each forward:

    1. a decided token whose probability has fallen below ``tau_remask`` turns back into a mask;
    2. masked positions with confidence above ``tau_high`` are committed;
    3. every maximal run of neighbouring masks without such a position commits its most confident one, if that is
       above ``tau_low``;
    4. the most confident masks are committed until one more is decided than was taken back, so that a block ends.

    Args:
        tau_high: In [0, 1].
        tau_low: In [0, 1].
        tau_remask: In [0, 1]; 0 for no re-masking.
        max_steps: Most forwards for one block, at least 1. Default: the block length, which always suffices.
    """

    def __init__(
        self, tau_high: float = 0.9, tau_low: float = 0.4, tau_remask: float = 0.0, max_steps: int | None = None
    ) -> None:
        super().__init__(max_steps)
        self.tau_high = check_fraction("tau_high", tau_high)
        self.tau_low = check_fraction("tau_low", tau_low)
        self.tau_remask = check_fraction("tau_remask", tau_remask)
        if tau_low > tau_high:
            raise UserError(f"tau_low: expected at most tau_high ({tau_high}), got {tau_low}")

    def step(self, state: BlockState, logits: Tensor, special: SpecialTokens) -> BlockState:
        """Re-mask, commit, divide; converged when no mask is left."""
        proposal = propose(state, logits)
        tokens, confidence = proposal.tokens, proposal.confidence
        decided = state.editable & ~state.masked
        taken_back = decided & (token_probability(logits, state.ids) < self.tau_remask)
        open_ = state.masked | taken_back

        place = confidence_rank(proposal, open_)
        best_of_run = open_ & (place == _least_of_run(place, open_))
        commit = (confidence > self.tau_high) | (best_of_run & (confidence > self.tau_low))
        commit |= place <= taken_back.sum(1, keepdim=True)
        commit &= open_

        masked = open_ & ~commit
        ids = torch.where(masked, special.mask_id, torch.where(commit, tokens, state.ids))
        return state.advance(ids, masked, ~masked.any(1))


def _least_of_run(score: Tensor, positions: Tensor) -> Tensor:
    """The least score in each position's maximal run of neighbouring True positions, ``[R, T]``."""
    before = torch.cat([torch.zeros_like(positions[:, :1]), positions[:, :-1]], 1)
    run = (positions & ~before).cumsum(1)  # positions outside share a run's number but are never asked about
    most = torch.full_like(score, score.shape[1])
    least = torch.full((score.shape[0], score.shape[1] + 1), score.shape[1], device=score.device, dtype=score.dtype)
    least = least.scatter_reduce(1, run, torch.where(positions, score, most), "amin")
    return least.gather(1, run)
