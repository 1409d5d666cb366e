"""Spans of tokens decided together by an auxiliary autoregressive model (CoDiLA, arXiv 2603.20216).

Shapes: R rows, T tokens of a block, B of a span, N = T / B spans of a block, V vocabulary.
"""

import math
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from dmaxlit.decoding.base import DECODERS, BlockState, Sampling
from dmaxlit.decoding.joint import Independent, JointDecoder, JointModel, Spans, spans_of
from dmaxlit.decoding.proposal import entropy, most_confident, propose
from dmaxlit.errors import check_at_least, check_choice
from dmaxlit.tokens import SpecialTokens

__all__ = ["CodilaDecoder"]

_STEPS = 1024.0  # per nat; spans whose entropies are closer are ties, which go left


@DECODERS.register("codila")
class CodilaDecoder(JointDecoder):
    """Decide one span of a block at each forward, its tokens together by the auxiliary model; never revise.

    With ``h_i(k)`` the mean entropy of the first k positions of span i (0 where a token is known):

    - ``static``: of the first ``candidates`` spans with masks, take the one of the least ``h_i(B)``, and decide all of
      it.
    - ``dynamic``: of each of them take the longest prefix with ``h_i(k) <= tau``, and decide the one with the most
      masks (the least ``h_i(k)`` of several). If no prefix has two masks, nothing is joint: the most confident mask of
      the block is committed.

    Which prefix the paper decides if several qualify was not at hand; one span at a forward is our reading.

    Args:
        mode: ``static`` or ``dynamic``.
        tau: Most entropy of a prefix in nats, at least 0, for ``dynamic``. The paper infills with 0.2 and 0.5.
        candidates: Number of leftmost spans with masks to choose from, at least 1; it keeps the end of a response from
            being decided first.
        joint: False: decide the same spans, but each token by the denoiser alone, for comparison.
        max_steps: Most forwards for one block, at least 1. Default: the block length, which always suffices.
    """

    def __init__(
        self,
        mode: Literal["static", "dynamic"] = "static",
        tau: float = 0.5,
        candidates: int = 10,
        joint: bool = True,
        max_steps: int | None = None,
    ) -> None:
        super().__init__(max_steps)
        check_at_least(1, candidates=candidates)
        check_at_least(0, tau=tau)
        self.mode, self.tau = check_choice("mode", mode, ("static", "dynamic")), tau
        self.candidates, self.joint = candidates, joint

    def step_jointly(self, state: BlockState, logits: Tensor, special: SpecialTokens, joint: JointModel) -> BlockState:
        """Decide a span, or a prefix of it, or a single token."""
        length = joint.span_length
        chosen, prefix = self._choose(state, logits, length)
        position = torch.arange(state.ids.shape[1], device=state.ids.device)
        in_span = (position // length == chosen.unsqueeze(1)) & (position % length < prefix.unsqueeze(1))
        tokens = self._tokens(state, logits, joint if self.joint else Independent(length), chosen)
        commit = in_span & state.masked
        if self.mode == "dynamic":
            proposal = propose(state, logits, state.masked)
            best = most_confident(proposal, state.masked)
            is_joint = commit.sum(1, keepdim=True) > 1
            commit, tokens = torch.where(is_joint, commit, best), torch.where(is_joint, tokens, proposal.tokens)
        masked = state.masked & ~commit
        return state.advance(torch.where(commit, tokens, state.ids), masked, ~masked.any(1))

    def _choose(self, state: BlockState, logits: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Return the span of each row that is decided, ``[R]``, and the length of its prefix that is, ``[R]``."""
        spans = (state.ids.shape[0], state.ids.shape[1] // length, length)
        masked = state.masked.view(spans)
        uncertainty = torch.where(state.masked, entropy(logits), 0.0).view(spans)
        sizes = torch.arange(1, length + 1, device=logits.device)
        mean = (uncertainty.cumsum(-1) / sizes * _STEPS).round()
        if self.mode == "static":
            prefix = torch.full_like(masked[..., 0], length, dtype=torch.long)
        else:
            prefix = torch.where(mean <= round(self.tau * _STEPS), sizes, 0).amax(-1)
        # Fewer masks cost more than any entropy.
        inside = prefix.unsqueeze(-1) >= sizes
        num_masks = (masked & inside).sum(-1) if self.mode == "dynamic" else 0
        worst = round(math.log(logits.shape[-1]) * _STEPS) + 1
        cost = mean.gather(-1, (prefix - 1).clamp(min=0).unsqueeze(-1)).squeeze(-1) - worst * num_masks
        open_spans = masked.any(-1)
        cost = torch.where(open_spans & (open_spans.cumsum(1) <= self.candidates), cost, torch.inf)
        chosen = cost.argmin(1)
        return chosen, prefix.gather(1, chosen.unsqueeze(1)).squeeze(1)

    def _tokens(self, state: BlockState, logits: Tensor, joint: JointModel, chosen: Tensor) -> Tensor:
        """Return the joint tokens of a span of each row, ``[R, T]``, repeated in all others."""
        length, width = joint.span_length, state.ids.shape[1]
        spans = take_spans(state, logits, chosen, length)
        draws = None if state.sampling is None else _of_span(state.sampling.draws, chosen, length)

        def choose(position: int, scores: Tensor) -> Tensor:
            sampling = state.sampling
            if sampling is not None and draws is not None:
                sampling = Sampling(draws[:, position : position + 1], sampling.temperature, sampling.top_p)
            token = propose(replace(state, sampling=sampling), scores.unsqueeze(1)).tokens.squeeze(1)
            return torch.where(spans.masked[:, position], token, spans.ids[:, position])

        return joint.decode(spans, choose).repeat(1, width // length)


def take_spans(state: BlockState, logits: Tensor, chosen: Tensor, length: int) -> Spans:
    """Return one span of each row.

    Args:
        state: R blocks of T tokens.
        logits: ``[R, T, V]``.
        chosen: ``[R]`` number of the span.
        length: Tokens of a span.
    """
    one = replace(state, ids=_of_span(state.ids, chosen, length), masked=_of_span(state.masked, chosen, length))
    return spans_of(one, _of_span(logits, chosen, length), length)


def _of_span(values: Tensor, chosen: Tensor, length: int) -> Tensor:
    """Take the values ``[R, B, ...]`` of a span of each row from ``[R, T, ...]``."""
    index = chosen.unsqueeze(1) * length + torch.arange(length, device=values.device)
    return values.gather(1, index.view(*index.shape, *[1] * (values.dim() - 2)).expand(-1, -1, *values.shape[2:]))
