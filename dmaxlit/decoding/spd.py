"""Soft parallel decoding, SPD (DMax, arXiv 2604.08302, Section 3.2)."""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from dmaxlit.decoding.base import DECODERS, BlockState, Decoder
from dmaxlit.decoding.proposal import propose
from dmaxlit.errors import UserError, check_at_least, check_fraction
from dmaxlit.tokens import SoftTokens, SpecialTokens

__all__ = ["SPDDecoder", "promote"]


def promote(masked: Tensor, confidence: Tensor, tau_dec: float | Tensor, contiguous: bool = True) -> Tensor:
    """Return the masked positions that SPD turns into tokens, ``[R, T]`` bool (arXiv 2604.08302, Section 3.2).

    These are the longest prefix of the masked positions with ``confidence > tau_dec``, at least the leftmost one. A row
    without masks promotes nothing.

    Args:
        masked: ``[R, T]`` bool, the undecided positions of each block.
        confidence: ``[R, T]`` probability of each position's proposed token.
        tau_dec: Promotion threshold in [0, 1], or a tensor of thresholds that broadcasts to ``[R, T]``.
        contiguous: Promote a prefix only. False: every masked position above ``tau_dec``, at least the leftmost one.
    """
    confident, number = confidence > tau_dec, masked.cumsum(1)
    if contiguous:
        confident = (masked & confident).cumsum(1) == number
    return masked & (confident | (number == 1))


@DECODERS.register("spd")
class SPDDecoder(Decoder):
    """SPD: promote a confident prefix of the masks, re-predict all tokens, feed them as hybrid embeddings.

    At each forward, with top-1 tokens ``v_i`` and confidences ``c_i`` (Eqs. 7-10):

    1. the longest contiguous prefix of the masked positions with ``c_i > tau_dec``, at least the leftmost one, turns
       from mask to token;
    2. every token position of the response, old or new, takes ``v_i``;
    3. the block has converged when it has no mask left and either every token equals that of the previous step
       (consistency; a position promoted at this step has changed) or every ``c_i >= tau_acc`` (confidence; as in the
       published code, where the paper has >);
    4. otherwise token position i enters the next forward as ``c_i E[v_i] + (1 - c_i) E[mask]``, rescaled to the norm
       ``c_i ||E[v_i]|| + (1 - c_i) ||E[mask]||``. Masks stay ``E[mask]``.

    Args:
        tau_dec: Promotion threshold in [0, 1]; 0 promotes the whole block at once, 1 one position at each forward.
        tau_acc: Acceptance threshold in [0, 1].
        contiguous: Promote a prefix only. False: every masked position above ``tau_dec``, at least the leftmost one.
        soft: Feed hybrid embeddings, mixed as above (``linear``, or true) or with their direction on the arc between
            the mask's and the token's, at ``c_i`` of its angle (``slerp``; the norm is the same). False: feed the
            tokens themselves.
        stop_on_consistency: End a block when its predictions repeat.
        stop_on_confidence: End a block when every confidence reaches ``tau_acc``.
        top_k: Tokens in the hybrid embedding, at least 1, weighted by their probabilities; the mask token gets the
            rest. DMax uses 1.
        max_steps: Most forwards for one block, at least 1. Default: twice the block length: promotion alone may take
            one forward per position, and revision needs room after the last one. (The published code stops at the
            block length.)
    """

    max_steps_per_token = 2

    def __init__(
        self,
        tau_dec: float = 0.5,
        tau_acc: float = 0.9,
        contiguous: bool = True,
        soft: bool | Literal["linear", "slerp"] = True,
        stop_on_consistency: bool = True,
        stop_on_confidence: bool = True,
        top_k: int = 1,
        max_steps: int | None = None,
    ) -> None:
        super().__init__(max_steps)
        if not (stop_on_consistency or stop_on_confidence):
            raise UserError("stop_on_consistency, stop_on_confidence: expected at least one to be true, got neither")
        if soft not in (True, False, "linear", "slerp"):
            raise UserError(f"soft: expected bool or 'linear' or 'slerp', got {soft!r}")
        check_at_least(1, top_k=top_k)
        self.tau_dec = check_fraction("tau_dec", tau_dec)
        self.tau_acc = check_fraction("tau_acc", tau_acc)
        self.contiguous = contiguous
        self.soft = soft
        self.stop_on_consistency = stop_on_consistency
        self.stop_on_confidence = stop_on_confidence
        self.top_k = top_k

    def start(self, ids: Tensor, editable: Tensor, special: SpecialTokens) -> BlockState:
        """Return the state of new blocks, without mixtures yet."""
        state = super().start(ids, editable, special)
        if not self.soft:
            return state
        if self.top_k >= special.vocab_size:
            raise UserError(f"top_k: expected less than the vocabulary's {special.vocab_size} tokens, got {self.top_k}")
        mixture = ids.unsqueeze(-1).expand(-1, -1, self.top_k + 1)
        weights = torch.zeros(mixture.shape, dtype=torch.float32, device=ids.device)
        empty = SoftTokens(mixture, weights, torch.zeros_like(editable), self.soft == "slerp")
        return replace(state, soft=empty)

    def step(self, state: BlockState, logits: Tensor, special: SpecialTokens) -> BlockState:
        """Promote, re-predict, test for convergence, mix."""
        tokens, confidence, _ = propose(state, logits)
        candidates, probabilities = tokens.unsqueeze(-1), confidence.unsqueeze(-1)
        if self.top_k > 1 and self.soft:
            candidates, probabilities = self._candidates(logits, candidates)
            confidence = probabilities[..., 0]

        # Promote a prefix of the masks, and re-predict all tokens.
        promoted = promote(state.masked, confidence, self.tau_dec, self.contiguous)
        masked = state.masked ^ promoted
        token_positions = state.editable ^ masked
        ids = torch.where(token_positions, tokens, state.ids)

        # Test for convergence. A promoted position has changed, for it held the mask token.
        has_changed = (ids != state.ids).any(1) if self.stop_on_consistency else True
        is_unsure = (state.editable & (confidence < self.tau_acc)).any(1) if self.stop_on_confidence else True
        converged = ~(masked.any(1) | (has_changed & is_unsure))

        # Mix the embeddings of the next forward.
        soft = None
        if self.soft:
            slerp = self.soft == "slerp"
            soft = SoftTokens.with_mask(candidates, probabilities, special.mask_id, token_positions, slerp)
        return state.advance(ids, masked, converged, soft)

    def _candidates(self, logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the proposed token followed by the most probable others, and their probabilities, ``[R, T, K]``.

        Args:
            logits: ``[R, T, V]``.
            tokens: ``[R, T, 1]`` the proposed tokens.
        """
        candidates = logits.scatter(-1, tokens, torch.inf).topk(self.top_k, dim=-1).indices
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return candidates, (logits.gather(-1, candidates) - logits.logsumexp(-1, keepdim=True)).exp()
