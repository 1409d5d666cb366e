"""Confidences checked by an auxiliary autoregressive model (CoDiLA's verification, arXiv 2603.20216)."""

from typing import Any

import torch
from torch import Tensor

from dmaxlit.decoding.base import DECODERS, BlockState
from dmaxlit.decoding.committing import CommittingDecoder
from dmaxlit.decoding.factory import make_decoder
from dmaxlit.decoding.joint import JointDecoder, JointModel, spans_of
from dmaxlit.decoding.proposal import propose
from dmaxlit.errors import UserError, check_fraction
from dmaxlit.tokens import SpecialTokens

__all__ = ["CodilaVerifyDecoder"]


@DECODERS.register("codila_verify")
class CodilaVerifyDecoder(JointDecoder):
    """Commit as another decoder does, from confidences lowered where the auxiliary model prefers another token.

    The auxiliary model reads each span with the proposed tokens. Where its most probable token, given the proposed ones
    before it, is not the proposed one, ``penalty`` is subtracted from the confidence (not below 0).

    Args:
        schedule: Registered name of the decoder that commits, one that never revises and goes by confidence:
            ``threshold``, ``factor``, ``entropy_bounded`` with the proxy ``confidence`` ...
        schedule_options: Its options.
        penalty: In [0, 1].
        max_steps: Most forwards for one block, at least 1. Default: that of the schedule.
    """

    def __init__(
        self,
        schedule: str = "threshold",
        schedule_options: dict[str, Any] | None = None,
        penalty: float = 0.5,
        max_steps: int | None = None,
    ) -> None:
        super().__init__(max_steps)
        self.schedule, self.schedule_options = schedule, dict(schedule_options or {})
        self.penalty = check_fraction("penalty", penalty)
        if schedule not in DECODERS:  # an import path may come from a model folder or a request
            raise UserError(f"schedule: expected a registered decoder, got {schedule!r}; known: {', '.join(DECODERS)}")
        inner = make_decoder(schedule, **self.schedule_options)
        if not isinstance(inner, CommittingDecoder) or type(inner).step is not CommittingDecoder.step:
            raise UserError(f"schedule: expected a decoder that commits by confidence alone, got {schedule!r}")
        if not inner.reads_confidence:
            raise UserError(f"schedule: expected a decoder that commits by confidence, got {inner!r}")
        self._inner = inner

    def max_steps(self, block_length: int) -> int:
        """Return the most forwards spent on one block: the option, else those of the schedule."""
        return self._inner.max_steps(block_length) if self._max_steps is None else self._max_steps

    def step_jointly(self, state: BlockState, logits: Tensor, special: SpecialTokens, joint: JointModel) -> BlockState:
        """Commit what the schedule selects by the lowered confidences."""
        proposal = propose(state, logits, state.masked)
        spans = spans_of(state, logits, joint.span_length)
        tokens = torch.where(state.masked, proposal.tokens, state.ids)
        scores = joint.score(spans, tokens.view_as(spans.ids)).view_as(logits)
        differs = state.masked & (scores.argmax(-1) != tokens)
        confidence = torch.where(differs, (proposal.confidence - self.penalty).clamp_min(0), proposal.confidence)
        # Only where it is lower: of a probability that has been rounded to 1, the logit is infinite.
        log_odds = torch.where(confidence < proposal.confidence, confidence.logit(), proposal.log_odds)
        features = self._inner._features_of_masks(state, logits)
        return self._inner._commit(state, proposal._replace(confidence=confidence, log_odds=log_odds), features)
