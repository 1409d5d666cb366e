"""PSD, parallel speculative decoding (arXiv 2605.15609)."""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from dmaxlit.decoding.base import DECODERS, BlockState, Decoder
from dmaxlit.decoding.proposal import Proposal, confidence_rank, most_confident, propose
from dmaxlit.errors import UserError, check_at_least, check_choice, check_fraction
from dmaxlit.tokens import SpecialTokens

__all__ = ["PSDDecoder"]

_MAX_DEPTH = 256  # far beyond use; memory grows with its square. A server grants its clients less


@DECODERS.register("psd")
class PSDDecoder(Decoder):
    """Commit by a policy, and verify drafts of the block's next states in the same forward.

    Each forward processes the block D_0 and, as extra blocks, nested drafts D_1, ..., D_depth, each with the next most
    confident masks filled by their proposed tokens. The deepest draft whose tokens the verifier confirms becomes the
    block; the policy commits further positions by the logits of that very draft, so no work is lost; and new drafts
    are built from the same confidences.

    One batched verification counts as one forward; the result counts the drafts as ``num_extra_blocks``. How many
    positions a draft adds and which draft verifies it was not at hand: both are options here. Like every block, drafts
    are filled to their end, also behind an EOS.

    Args:
        depth: Drafts, from 1 to 256. The paper recommends 3.
        policy: What is committed at a forward: ``confidence``: positions above ``threshold``; ``local_leap``: these,
            and positions above ``relaxed`` within ``radius`` of one. Both commit at least the most confident position.
        threshold: In [0, 1].
        relaxed: In [0, 1].
        radius: At least 1.
        draft_tokens: Positions that each draft adds to the one before, at least 1; None for as many as the policy has
            just committed.
        verify: ``below``: the tokens that D_j adds are compared with the top-1 tokens of D_(j-1), which has masks
            there; ``inside``: with those of D_j itself, which sees them. The latter accepts more, since a wrong token
            may support itself.
        max_steps: Most forwards for one block, at least 1. Default: the block length, which always suffices.
    """

    def __init__(
        self,
        depth: int = 3,
        policy: Literal["confidence", "local_leap"] = "confidence",
        threshold: float = 0.9,
        relaxed: float = 0.75,
        radius: int = 4,
        draft_tokens: int | None = None,
        verify: Literal["below", "inside"] = "below",
        max_steps: int | None = None,
    ) -> None:
        super().__init__(max_steps)
        check_at_least(1, depth=depth, radius=radius, draft_tokens=draft_tokens)
        if depth > _MAX_DEPTH:
            raise UserError(f"depth: expected at most {_MAX_DEPTH}, got {depth}")
        check_choice("policy", policy, ("confidence", "local_leap"))
        check_choice("verify", verify, ("below", "inside"))
        self.depth, self.policy, self.radius = depth, policy, radius
        self.threshold = check_fraction("threshold", threshold)
        self.relaxed = check_fraction("relaxed", relaxed)
        self.draft_tokens, self.verify = draft_tokens, verify

    @property
    def extra_blocks(self) -> int:
        """The drafts."""
        return self.depth

    def start(self, ids: Tensor, editable: Tensor, special: SpecialTokens) -> BlockState:
        """Return the state of new blocks, whose drafts fill nothing yet."""
        state = super().start(ids, editable, special)
        extra_blocks = state.ids.unsqueeze(1).expand(-1, self.depth, -1)
        return replace(state, extra_blocks=extra_blocks, memory={"level": torch.full_like(ids, self.depth + 1)})

    def step(self, state: BlockState, logits: Tensor, special: SpecialTokens) -> BlockState:
        """Accept the deepest confirmed draft, commit by the policy, draft again."""
        assert state.extra_blocks is not None, "start sets extra_blocks"
        proposal = propose(state, logits)

        # Accept a draft, and continue with its proposal.
        level = state.memory["level"]  # the first draft that fills the position; depth + 1 where none does
        accepted = self._accepted(state.extra_blocks, level, proposal.tokens)
        filled = state.masked & (level <= accepted.unsqueeze(1))
        ids = torch.where(filled, state.extra_blocks[:, -1], state.ids)
        masked = state.masked & ~filled
        index = accepted.view(-1, 1, 1).expand(-1, 1, ids.shape[1])
        proposal = Proposal(*(field.gather(1, index).squeeze(1) for field in proposal))

        # Commit.
        commit = masked & self._policy_positions(masked, proposal)
        ids = torch.where(commit, proposal.tokens, ids)
        masked = masked & ~commit

        # Draft.
        size = commit.sum(1, keepdim=True).clamp(min=1) if self.draft_tokens is None else self.draft_tokens
        level = (confidence_rank(proposal, masked) // size + 1).clamp(max=self.depth + 1)
        level = torch.where(masked, level, self.depth + 1)
        depths = torch.arange(1, self.depth + 1, device=ids.device).view(1, -1, 1)
        extra_blocks = torch.where(level.unsqueeze(1) <= depths, proposal.tokens.unsqueeze(1), ids.unsqueeze(1))
        return state.advance(ids, masked, ~masked.any(1), extra_blocks=extra_blocks, memory={"level": level})

    def _accepted(self, extra_blocks: Tensor, level: Tensor, tokens: Tensor) -> Tensor:
        """Return the number of the deepest confirmed draft, ``[R]``; 0 for none."""
        depths = torch.arange(1, self.depth + 1, device=level.device).view(1, -1, 1)
        deepest, level = extra_blocks[:, -1:], level.unsqueeze(1)
        if self.verify == "below":
            agrees = ((deepest == tokens[:, :-1]) | (level != depths)).all(-1)
            return agrees.long().cumprod(1).sum(1)
        agrees = ((deepest == tokens[:, 1:]) | (level > depths)).all(-1)
        return (agrees * depths.squeeze(-1)).amax(1)

    def _policy_positions(self, masked: Tensor, proposal: Proposal) -> Tensor:
        """Return the positions that the policy commits, ``[R, T]`` bool."""
        confidence = proposal.confidence
        best = most_confident(proposal, masked)
        anchors = masked & (confidence > self.threshold)
        if self.policy == "confidence":
            return anchors | best
        radius = min(self.radius, masked.shape[1])  # the pooling takes time for what lies outside the block
        near = F.max_pool1d(anchors.to(confidence.dtype).unsqueeze(1), 2 * radius + 1, 1, radius).squeeze(1) > 0
        return anchors | best | (near & (confidence > self.relaxed))
