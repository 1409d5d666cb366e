"""What decoders share that commit masked positions and never revise them."""

from abc import abstractmethod

import torch
from torch import Tensor

from dmaxlit.decoding.base import BlockState, Decoder
from dmaxlit.decoding.proposal import Proposal, argmax_proposal, descending_rank, propose, scatter_proposal
from dmaxlit.tokens import SpecialTokens

__all__ = ["CommittingDecoder", "confidence_rank"]


_FINITE = 1e30  # keeps the last of the given positions before all others


class CommittingDecoder(Decoder):
    """Commits some masked positions at each forward, at least one, and never revises.

    A subclass says which (:meth:`commit`); where it names none, the most confident one is taken. A block thus takes at
    most its length in forwards.
    """

    @abstractmethod
    def commit(self, state: BlockState, proposal: Proposal, features: Tensor | None) -> Tensor:
        """Positions to commit, ``[R, T]`` bool; what it says of positions that are not masked does not matter.

        Args:
            state: The blocks as they were fed to the model.
            proposal: The proposed tokens and their confidences, ``[R, T]``; token 0 with confidence 0 where there is no
                mask.
            features: ``[R, T, m]`` what :meth:`features` says, zeros where there is no mask; None if it says nothing.
        """

    def features(self, logits: Tensor) -> Tensor | None:
        """What :meth:`commit` has to know of a position beside its proposal, ``[..., m]``.

        Args:
            logits: ``[..., V]``.
        """
        return None

    def reads(self, state: BlockState) -> Tensor:
        """Masked positions alone: what is committed is settled."""
        return state.masked

    def step(self, state: BlockState, logits: Tensor, special: SpecialTokens) -> BlockState:
        """Commit what the subclass says, or else the most confident position; converged when no mask is left."""
        features = self.features(logits)
        if features is not None:
            features = features.masked_fill(~state.masked.unsqueeze(-1), 0.0)
        return self._settle(state, propose(state, logits, state.masked), features)

    def _step_sparse(self, state: BlockState, logits: Tensor, reads: Tensor, special: SpecialTokens) -> BlockState:
        """The same without filling up what is not read, unless tokens are drawn or a subclass has its own step."""
        if state.sampling is not None or type(self).step is not CommittingDecoder.step:
            return super()._step_sparse(state, logits, reads, special)
        features = self.features(logits)
        if features is not None:
            features = features.new_zeros(*reads.shape, features.shape[-1]).index_put_((reads,), features)
        return self._settle(state, scatter_proposal(argmax_proposal(logits), reads), features)

    def _settle(self, state: BlockState, proposal: Proposal, features: Tensor | None) -> BlockState:
        commit = state.masked & self.commit(state, proposal, features)
        best = state.masked & (confidence_rank(proposal, state.masked) == 0)
        commit |= best & ~commit.any(1, keepdim=True)
        masked = state.masked & ~commit
        return state.advance(torch.where(commit, proposal.tokens, state.ids), masked, ~masked.any(1))


def confidence_rank(proposal: Proposal, among: Tensor, most: bool = True) -> Tensor:
    """Place of each position among the given ones, the most confident first, ``[R, T]``; the others come after.

    Args:
        proposal: The confidences.
        among: ``[R, T]`` bool, the positions that are ordered.
        most: False for the least confident first.
    """
    score = proposal.log_odds.clamp(-_FINITE, _FINITE)
    return descending_rank(torch.where(among, score if most else -score, -torch.inf))
