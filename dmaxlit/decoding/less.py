"""LESS: commit what is confident, and has settled over the last forwards (arXiv 2606.16908)."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from dmaxlit.decoding.base import DECODERS, BlockState, Decoder
from dmaxlit.decoding.proposal import most_confident, propose
from dmaxlit.errors import UserError, check_at_least, check_fraction
from dmaxlit.tokens import SpecialTokens

__all__ = ["LessDecoder"]

_MAX_TOP_K = 256  # far beyond use; memory grows with it, for each position


@DECODERS.register("less")
class LessDecoder(Decoder):
    """Commit masked positions that are confident, keep their token, and whose distribution has stopped moving.

    A masked position is committed if its confidence is above ``threshold``, the last ``patience`` forwards proposed
    the same token, and the Jensen-Shannon divergence from the previous forward's distribution is at most
    ``max_divergence``; at least the most confident position is. The divergence is that of the probabilities of the
    previous forward's ``top_k`` tokens and of all others together, in bits: a lower bound of the whole one, which needs
    no copy of the logits. The definition and all defaults are ours; the published settings were not at hand.

    Args:
        threshold: In [0, 1].
        patience: Forwards before this one that must have proposed the same token, at least 1.
        max_divergence: In [0, 1] bit; 1 allows any.
        top_k: Tokens that are compared, from 1 to 256; at most the vocabulary is.
        max_steps: Most forwards for one block, at least 1. Default: the block length, which always suffices.
    """

    def __init__(
        self,
        threshold: float = 0.7,
        patience: int = 2,
        max_divergence: float = 0.05,
        top_k: int = 8,
        max_steps: int | None = None,
    ) -> None:
        super().__init__(max_steps)
        check_at_least(1, patience=patience, top_k=top_k)
        if top_k > _MAX_TOP_K:
            raise UserError(f"top_k: expected at most {_MAX_TOP_K}, got {top_k}")
        self.threshold = check_fraction("threshold", threshold)
        self.max_divergence = check_fraction("max_divergence", max_divergence)
        self.patience, self.top_k = patience, top_k

    def start(self, ids: Tensor, editable: Tensor, special: SpecialTokens) -> BlockState:
        """Return the state of new blocks, for which nothing has been proposed yet."""
        top_ids = ids.new_zeros(*ids.shape, min(self.top_k, special.vocab_size))
        memory = {
            "proposed": torch.full_like(ids, -1),
            "repeats": torch.zeros_like(ids),
            "top_ids": top_ids,
            "top_probabilities": torch.zeros(top_ids.shape, dtype=torch.float32, device=ids.device),
        }
        return replace(super().start(ids, editable, special), memory=memory)

    def step(self, state: BlockState, logits: Tensor, special: SpecialTokens) -> BlockState:
        """Compare with the previous forward, commit, and remember this one."""
        proposal, before = propose(state, logits), state.memory
        same = proposal.tokens == before["proposed"]
        repeats = torch.where(same, before["repeats"] + 1, 0)
        probabilities = logits.to(torch.float32).softmax(-1)
        divergence = _divergence(before["top_probabilities"], probabilities.gather(-1, before["top_ids"]))

        settled = (repeats >= self.patience) & (divergence <= self.max_divergence)
        commit = settled & (proposal.confidence > self.threshold)
        commit |= most_confident(proposal, state.masked)
        masked = state.masked & ~commit
        ids = torch.where(state.masked & commit, proposal.tokens, state.ids)

        top = probabilities.topk(before["top_ids"].shape[-1], dim=-1)
        memory = {
            "proposed": proposal.tokens,
            "repeats": repeats,
            "top_ids": top.indices,
            "top_probabilities": top.values,
        }
        return state.advance(ids, masked, ~masked.any(1), memory=memory)


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    """Compute the Jensen-Shannon divergence of two distributions over K tokens and the rest, in bits, ``[R, T]``.

    Args:
        p: ``[R, T, K]`` probabilities of the tokens, with sum at most 1.
        q: The same tokens' probabilities in the other distribution.
    """
    p, q = (torch.cat([x, (1 - x.sum(-1, keepdim=True)).clamp_min(0)], -1) for x in (p, q))
    mean = (p + q) / 2
    entropies = [-torch.xlogy(x, x).sum(-1) for x in (mean, p, q)]
    return (entropies[0] - (entropies[1] + entropies[2]) / 2) / math.log(2)
