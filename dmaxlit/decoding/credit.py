"""CreditDecoding: a token that keeps being proposed gains credit (ACL 2026; rule as in dInfer's code)."""

from dataclasses import replace

import torch
from torch import Tensor

from dmaxlit.decoding.base import DECODERS, BlockState, Decoder
from dmaxlit.decoding.proposal import argmax_proposal, most_confident, propose
from dmaxlit.errors import UserError, check_fraction
from dmaxlit.tokens import SpecialTokens

__all__ = ["CreditDecoder"]


@DECODERS.register("credit")
class CreditDecoder(Decoder):
    """Threshold decoding of logits that are raised for tokens proposed repeatedly.

    At each forward the top-1 token v of every masked position, with confidence c, earns
    ``C[v] <- beta C[v] + c ** gamma``; all other credit decays by ``beta``. Positions are committed by the threshold
    rule on ``softmax(logits + alpha log(1 + C))``. Credit takes ``[rows, block length, vocabulary]`` of float32.

    Args:
        threshold: In [0, 1].
        alpha: Weight of the credit, at least 0; 0 is plain threshold decoding.
        beta: Fraction of the credit kept at each forward, in [0, 1].
        gamma: Exponent of the confidence earned, at least 0.
        max_steps: Most forwards for one block, at least 1. Default: the block length, which always suffices.
    """

    def __init__(
        self,
        threshold: float = 0.95,
        alpha: float = 0.7,
        beta: float = 0.8,
        gamma: float = 0.2,
        max_steps: int | None = None,
    ) -> None:
        super().__init__(max_steps)
        for name, value in (("alpha", alpha), ("gamma", gamma)):
            if not value >= 0:
                raise UserError(f"{name}: expected a number of at least 0, got {value}")
        self.threshold = check_fraction("threshold", threshold)
        self.alpha, self.beta, self.gamma = alpha, check_fraction("beta", beta), gamma

    def start(self, ids: Tensor, editable: Tensor, special: SpecialTokens) -> BlockState:
        """Return the state of new blocks, without credit."""
        credit = torch.zeros(*ids.shape, special.vocab_size, dtype=torch.float32, device=ids.device)
        return replace(super().start(ids, editable, special), memory={"credit": credit})

    def step(self, state: BlockState, logits: Tensor, special: SpecialTokens) -> BlockState:
        """Add credit, then commit by threshold, at least the most confident position."""
        # Credit decays, and the top-1 token of each mask earns more; it raises the logits.
        best = argmax_proposal(logits)
        earned = torch.where(state.masked, best.confidence**self.gamma, 0.0).to(torch.float32)
        tokens = best.tokens.unsqueeze(-1)
        credit = (state.memory["credit"] * self.beta).scatter_add_(-1, tokens, earned.unsqueeze(-1))
        raised = logits.to(torch.promote_types(logits.dtype, torch.float32), copy=True)
        raised[..., : special.vocab_size] += credit.log1p().mul_(self.alpha)

        proposal = propose(state, raised)
        commit = (proposal.confidence > self.threshold) | most_confident(proposal, state.masked)
        masked = state.masked & ~commit
        ids = torch.where(state.masked & commit, proposal.tokens, state.ids)
        return state.advance(ids, masked, ~masked.any(1), memory={"credit": credit})
