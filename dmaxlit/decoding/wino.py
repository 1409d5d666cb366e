"""WINO: wide in, narrow out (arXiv 2507.18578, ICLR 2026)."""

from dataclasses import replace

import torch
from torch import Tensor

from dmaxlit.decoding.base import DECODERS, BlockState, Decoder
from dmaxlit.decoding.proposal import confidence_rank, propose, score_tokens
from dmaxlit.errors import check_fraction
from dmaxlit.tokens import SpecialTokens

__all__ = ["WinoDecoder"]

# The published limits of the positions committed at one forward.
_COMMIT_FRACTION, _MIN_LIMIT, _MAX_LIMIT = 0.7, 5, 20


@DECODERS.register("wino")
class WinoDecoder(Decoder):
    """Commit generously, and revoke tokens that a shadow of the block, which cannot see them, finds improbable.

    Each forward also processes an extra block of masks, the shadow. Its position i attends to all of the block except
    the token at i, so it estimates the probability of that token without seeing it. At each forward:

    1. wide in: masked positions with ``c_i > tau_in`` are committed, the most confident first, at most
       ``min(max(0.7 masks, 5), 20)`` of them, and at least one;
    2. narrow out: a token committed earlier whose probability in the shadow is below ``tau_out`` turns back into a
       mask, the least probable first; fewer than were committed at the forward before, and only if this forward
       commits more than one.

    A forward processes two blocks; the result counts the second as ``num_extra_blocks``.

    Args:
        tau_in: In [0, 1].
        tau_out: In [0, 1]; 0 never revokes.
        max_steps: Most forwards for one block, at least 1. Default: twice the block length.
    """

    max_steps_per_token = 2

    def __init__(self, tau_in: float = 0.6, tau_out: float = 0.9, max_steps: int | None = None) -> None:
        super().__init__(max_steps)
        self.tau_in = check_fraction("tau_in", tau_in)
        self.tau_out = check_fraction("tau_out", tau_out)

    @property
    def extra_blocks(self) -> int:
        """The shadow."""
        return 1

    def block_attention_mask(self, length: int) -> Tensor:
        """Let the block attend to itself, and the shadow to itself and to the block's other positions."""
        every, none = torch.ones(length, length, dtype=torch.bool), torch.zeros(length, length, dtype=torch.bool)
        block = torch.cat([every, none], 1)
        shadow = torch.cat([~torch.eye(length, dtype=torch.bool), every], 1)
        return torch.cat([block, shadow])

    def start(self, ids: Tensor, editable: Tensor, special: SpecialTokens) -> BlockState:
        """Return the state of new blocks and their shadows."""
        state = super().start(ids, editable, special)
        accepted = torch.zeros_like(state.step)  # no token can be revoked yet
        return replace(state, extra_blocks=state.ids.unsqueeze(1), memory={"accepted": accepted})

    def step(self, state: BlockState, logits: Tensor, special: SpecialTokens) -> BlockState:
        """Commit wide, revoke narrow; converged when no mask is left."""
        block, shadow = logits[:, 0], logits[:, 1]
        # Wide in: commit the most confident positions above tau_in, within the limit.
        proposal = propose(state, block)
        tokens, confidence = proposal.tokens, proposal.confidence
        num_masks = state.masked.sum(1, keepdim=True)
        limit = (num_masks * _COMMIT_FRACTION).long().clamp(_MIN_LIMIT, _MAX_LIMIT)
        rank = confidence_rank(proposal, state.masked)
        commit = state.masked & (((confidence > self.tau_in) & (rank < limit)) | (rank == 0))
        accepted = commit.sum(1)

        # Narrow out: revoke tokens that the shadow finds improbable, fewer than the forward before committed.
        support = score_tokens(shadow, state.ids)
        revoke = state.editable & ~state.masked & (support.confidence < self.tau_out)
        fewer = confidence_rank(support, revoke, ascending=True) < (state.memory["accepted"] - 1).unsqueeze(1)
        revoke &= fewer & (accepted > 1).unsqueeze(1)

        masked = (state.masked & ~commit) | revoke
        ids = torch.where(masked, special.mask_id, torch.where(commit, tokens, state.ids))
        return state.advance(ids, masked, ~masked.any(1), memory={"accepted": accepted})
