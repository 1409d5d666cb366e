"""Token-to-mask refinement: doubtful tokens turn back into masks (T2M, 2604.18738; limits as in its code)."""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from dmaxlit.decoding.base import DECODERS, BlockState, Decoder
from dmaxlit.decoding.proposal import Proposal, descending_rank, most_confident, propose, score_tokens
from dmaxlit.errors import check_at_least, check_choice, check_fraction
from dmaxlit.tokens import SpecialTokens

__all__ = ["T2MDecoder"]

_THRESHOLDS = {"low_probability": 0.5, "mirrored": 0.9, "change": 0.3}


@DECODERS.register("t2m")
class T2MDecoder(Decoder):
    """Fill masks above ``tau_mask``, and turn visible tokens that a detector doubts back into masks.

    At each forward masked positions with ``c_i > tau_mask`` are filled, at least the most confident one. Of the tokens
    that were visible before, those are re-masked that the detector doubts, with p the probability of the token:

    - ``low_probability``: ``p < tau_remask``;
    - ``mirrored``: the model proposes another token with ``c_i > tau_remask``, the case in which ``edit`` overwrites;
    - ``change``: p differs by more than ``tau_remask`` from its value at the previous forward.

    At most the share ``max_share`` of the visible tokens, at least one, is re-masked at one forward, the most doubtful
    first, and no position more than ``max_remasks`` times. The block ends at a forward without masks that re-masks
    nothing.

    Args:
        detector: How doubtful tokens are found.
        tau_mask: In [0, 1].
        tau_remask: In [0, 1]. Default: 0.5, 0.9 and 0.3 for the three detectors.
        max_share: In [0, 1].
        max_remasks: Most times that a position is re-masked, at least 0.
        max_steps: Most forwards for one block, at least 1. Default: twice the block length.
    """

    max_steps_per_token = 2

    def __init__(
        self,
        detector: Literal["low_probability", "mirrored", "change"] = "low_probability",
        tau_mask: float = 0.7,
        tau_remask: float | None = None,
        max_share: float = 0.25,
        max_remasks: int = 5,
        max_steps: int | None = None,
    ) -> None:
        super().__init__(max_steps)
        check_choice("detector", detector, _THRESHOLDS)
        check_at_least(0, max_remasks=max_remasks)
        self.detector = detector
        self.tau_mask = check_fraction("tau_mask", tau_mask)
        self.tau_remask = check_fraction("tau_remask", _THRESHOLDS[detector] if tau_remask is None else tau_remask)
        self.max_share, self.max_remasks = check_fraction("max_share", max_share), max_remasks

    def start(self, ids: Tensor, editable: Tensor, special: SpecialTokens) -> BlockState:
        """Return the state of new blocks, in which nothing has been re-masked."""
        memory = {"remasks": torch.zeros_like(ids)}
        if self.detector == "change":
            memory["probability"] = torch.zeros(ids.shape, dtype=torch.float32, device=ids.device)
        return replace(super().start(ids, editable, special), memory=memory)

    def step(self, state: BlockState, logits: Tensor, special: SpecialTokens) -> BlockState:
        """Fill and re-mask; converged when there was nothing to do."""
        proposal = propose(state, logits)
        fill = state.masked & ((proposal.confidence > self.tau_mask) | most_confident(proposal, state.masked))
        ids = torch.where(fill, proposal.tokens, state.ids)

        # Of the doubtful tokens, the worst.
        visible = state.editable & ~state.masked
        present = score_tokens(logits, state.ids)
        is_doubtful, doubt = self._doubt(state, proposal, present)
        is_doubtful &= visible & (state.memory["remasks"] < self.max_remasks)
        most = (visible.sum(1, keepdim=True) * self.max_share).long().clamp_min(1)
        remask = is_doubtful & (descending_rank(torch.where(is_doubtful, doubt, -torch.inf)) < most)

        ids = torch.where(remask, special.mask_id, ids)
        masked = (state.masked & ~fill) | remask
        memory = {"remasks": state.memory["remasks"] + remask}
        if self.detector == "change":
            memory["probability"] = torch.where(fill, proposal.confidence, present.confidence).to(torch.float32)
        return state.advance(ids, masked, ~(state.masked | remask).any(1), memory=memory)

    def _doubt(self, state: BlockState, proposal: Proposal, present: Proposal) -> tuple[Tensor, Tensor]:
        """Return which tokens the detector doubts (meaningful at visible positions), and how much, ``[R, T]``."""
        if self.detector == "low_probability":
            return present.confidence < self.tau_remask, -present.log_odds
        if self.detector == "mirrored":
            return (proposal.tokens != state.ids) & (proposal.confidence > self.tau_remask), proposal.log_odds
        change = (present.confidence - state.memory["probability"]).abs()
        return change > self.tau_remask, change
