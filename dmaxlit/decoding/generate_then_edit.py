"""Generate-then-Edit: an aggressive draft, then bidirectional rewriting (Zhong et al., arXiv 2601.15593).

The paradigm is the paper's; its thresholds were not at hand, and the rule here is ours.
"""

import torch
from torch import Tensor

from dmaxlit.decoding.base import DECODERS, BlockState, Decoder
from dmaxlit.decoding.proposal import confidence_rank, most_confident, propose, score_tokens
from dmaxlit.errors import check_at_least, check_fraction
from dmaxlit.tokens import SpecialTokens

__all__ = ["GenerateThenEditDecoder"]


@DECODERS.register("generate_then_edit")
class GenerateThenEditDecoder(Decoder):
    """Draft the whole block quickly, then rewrite the tokens that the model finds improbable until there are none.

    Draft: masked positions above ``tau_draft`` are filled, at least the most confident one. Edit, once no mask is
    left: a token with probability below ``tau_keep`` that is not the top-1 token is replaced by it, the least probable
    first. Each edit sees tokens instead of masks, which restores the dependences that the parallel draft ignored.
    The block has converged when a forward finds nothing to rewrite.

    Args:
        tau_draft: In [0, 1]; 0 drafts the whole block in one forward.
        tau_keep: In [0, 1]; 0 never rewrites, 1 rewrites whatever is not top-1.
        max_edits: Most tokens rewritten at one forward, at least 1; None for no limit. Fewer at a time cost forwards
            and keep rewrites from contradicting one another.
        max_steps: Most forwards for one block, at least 1. Default: twice the block length.
    """

    max_steps_per_token = 2

    def __init__(
        self,
        tau_draft: float = 0.0,
        tau_keep: float = 0.5,
        max_edits: int | None = None,
        max_steps: int | None = None,
    ) -> None:
        super().__init__(max_steps)
        check_at_least(1, max_edits=max_edits)
        self.tau_draft = check_fraction("tau_draft", tau_draft)
        self.tau_keep = check_fraction("tau_keep", tau_keep)
        self.max_edits = max_edits

    def step(self, state: BlockState, logits: Tensor, special: SpecialTokens) -> BlockState:
        """Draft rows that have masks, rewrite the others."""
        proposal = propose(state, logits)
        tokens, confidence = proposal.tokens, proposal.confidence
        drafting = state.masked.any(1, keepdim=True)
        draft = state.masked & ((confidence > self.tau_draft) | most_confident(proposal, state.masked))

        belief = score_tokens(logits, state.ids)
        rewrite = state.editable & ~drafting & (tokens != state.ids) & (belief.confidence < self.tau_keep)
        if self.max_edits is not None:
            rewrite &= confidence_rank(belief, rewrite, ascending=True) < self.max_edits
        ids = torch.where(draft | rewrite, tokens, state.ids)
        return state.advance(ids, state.masked & ~draft, ~(draft | rewrite).any(1))
