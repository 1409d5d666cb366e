"""WINO: wide in, narrow out (arXiv 2507.18578, ICLR 2026)."""

from dataclasses import replace

import torch
from torch import Tensor

from dmaxlit.decoding.base import DECODERS, BlockState, Decoder
from dmaxlit.decoding.committing import confidence_rank
from dmaxlit.decoding.proposal import propose, score_tokens
from dmaxlit.errors import check_fraction
from dmaxlit.tokens import SpecialTokens

__all__ = ["WinoDecoder"]

# The published limits on the positions committed at one forward, and what the first verification may take back.
_SHARE, _AT_LEAST, _AT_MOST = 0.7, 5, 20
_FIRST_ACCEPTED = 30


@DECODERS.register("wino")
class WinoDecoder(Decoder):
    """Commit boldly, and take back what a shadow of the block, which does not see the token itself, finds improbable.

    A second version of the block, all masks, is read with it: its position i sees everything but the token at i, so it
    says how probable that token is without being told. At each forward:

    1. wide in: masked positions with ``c_i > tau_in`` are committed, the most confident first, at most
       ``min(max(0.7 masks, 5), 20)`` of them, and at least one;
    2. narrow out: a token committed earlier with probability below ``tau_out`` in the shadow turns back into a mask,
       the least probable first; fewer than were committed at the forward before, and only if this one commits more
       than one.

    A forward reads two blocks; see ``num_extra_blocks`` of the result.

    Args:
        tau_in: In [0, 1].
        tau_out: In [0, 1]; 0 never takes back.
        max_steps: Most forwards for one block, at least 1. Default: twice the block length.
    """

    def __init__(self, tau_in: float = 0.6, tau_out: float = 0.9, max_steps: int | None = None) -> None:
        super().__init__(max_steps)
        self.tau_in = check_fraction("tau_in", tau_in)
        self.tau_out = check_fraction("tau_out", tau_out)

    @property
    def extra_blocks(self) -> int:
        """The shadow."""
        return 1

    def block_attention_mask(self, length: int) -> Tensor:
        """The block sees itself; the shadow sees itself and the block, but for the position it stands at."""
        every, none = torch.ones(length, length, dtype=torch.bool), torch.zeros(length, length, dtype=torch.bool)
        block = torch.cat([every, none], 1)
        shadow = torch.cat([~torch.eye(length, dtype=torch.bool), every], 1)
        return torch.cat([block, shadow])

    def start(self, ids: Tensor, editable: Tensor, special: SpecialTokens) -> BlockState:
        """Fresh blocks and their shadows."""
        state = super().start(ids, editable, special)
        accepted = torch.full_like(state.step, _FIRST_ACCEPTED)
        return replace(state, extra_blocks=state.ids.unsqueeze(1), memory={"accepted": accepted})

    def step(self, state: BlockState, logits: Tensor, special: SpecialTokens) -> BlockState:
        """Wide in, narrow out; converged when no mask is left."""
        block, shadow = logits[:, 0], logits[:, 1]
        proposal = propose(state, block)
        tokens, confidence = proposal.tokens, proposal.confidence
        masks = state.masked.sum(1, keepdim=True)
        limit = (masks * _SHARE).long().clamp(_AT_LEAST, _AT_MOST)
        place = confidence_rank(proposal, state.masked)
        commit = state.masked & (((confidence > self.tau_in) & (place < limit)) | (place == 0))
        accepted = commit.sum(1)

        support = score_tokens(shadow, state.ids)
        doubted = state.editable & ~state.masked & (support.confidence < self.tau_out)
        fewer = confidence_rank(support, doubted, most=False) < (state.memory["accepted"] - 1).unsqueeze(1)
        doubted &= fewer & (accepted > 1).unsqueeze(1)

        masked = (state.masked & ~commit) | doubted
        ids = torch.where(masked, special.mask_id, torch.where(commit, tokens, state.ids))
        return state.advance(ids, masked, ~masked.any(1), memory={"accepted": accepted})

    def max_steps(self, block_length: int) -> int:
        """Most forwards spent on one block of that length."""
        return 2 * block_length if self._max_steps is None else self._max_steps
