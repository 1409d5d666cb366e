"""Hierarchical decoding: divide each run of masks by committing a token inside it (Hierarchy-dLLM, ICLR 2026)."""

import torch
from torch import Tensor

from dmaxlit.decoding.base import DECODERS, BlockState, Decoder
from dmaxlit.decoding.proposal import argmax_proposal, confidence_rank, propose
from dmaxlit.errors import UserError, check_fraction
from dmaxlit.tokens import SpecialTokens

__all__ = ["HierarchicalDecoder"]


@DECODERS.register("hierarchical")
class HierarchicalDecoder(Decoder):
    """Commit confident positions, and the best position of each run of masks that has none, to divide the run.

    At each forward:

    1. a decided position whose largest probability has fallen below ``tau_remask`` turns back into a mask;
    2. masked positions with confidence above ``tau_high`` are committed;
    3. every maximal run of neighbouring masks without such a position commits its most confident one, if that is
       above ``tau_low``;
    4. only if steps 2 and 3 committed no more positions than step 1 re-masked, the most confident of the rest are
       committed until there is one more, so that a block ends.

    The published code re-masks by the largest probability of the position, whichever token it belongs to: a position
    whose token the model would now replace with confidence keeps it.

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
        largest = confidence if state.sampling is None else argmax_proposal(logits).confidence
        remasked = state.editable & ~state.masked & (largest < self.tau_remask)
        candidates = state.masked | remasked

        # Commit by confidence, and the best position of each run.
        rank = confidence_rank(proposal, candidates)
        best_of_run = candidates & (rank == _lowest_of_run(rank, candidates))
        commit = candidates & ((confidence > self.tau_high) | (best_of_run & (confidence > self.tau_low)))

        # Then the best of the rest, as many as are missing to one more than was re-masked.
        missing = remasked.sum(1, keepdim=True) + 1 - commit.sum(1, keepdim=True)
        rest = candidates & ~commit
        commit |= rest & (confidence_rank(proposal, rest) < missing)

        masked = candidates & ~commit
        ids = torch.where(masked, special.mask_id, torch.where(commit, tokens, state.ids))
        return state.advance(ids, masked, ~masked.any(1))


def _lowest_of_run(rank: Tensor, positions: Tensor) -> Tensor:
    """Return the lowest rank in each position's maximal run of neighbouring True positions, ``[R, T]``."""
    # Number the runs from 1. Positions outside share a run's number, but their results are not used.
    before = torch.cat([torch.zeros_like(positions[:, :1]), positions[:, :-1]], 1)
    run = (positions & ~before).cumsum(1)
    worst = rank.shape[1]
    lowest = torch.full((rank.shape[0], worst + 1), worst, device=rank.device, dtype=rank.dtype)
    lowest = lowest.scatter_reduce(1, run, torch.where(positions, rank, worst), "amin")
    return lowest.gather(1, run)
