"""The base of decoders that commit masked positions and never revise them."""

from abc import abstractmethod

import torch
from torch import Tensor

from dmaxlit.decoding.base import BlockState, Decoder
from dmaxlit.decoding.proposal import Proposal, argmax_proposal, most_confident, propose, scatter_proposal
from dmaxlit.errors import UserError
from dmaxlit.tokens import SpecialTokens

__all__ = ["CommittingDecoder"]


class CommittingDecoder(Decoder):
    """Commits some masked positions at each forward, at least one, and never revises.

    Subclasses implement :meth:`select`; where it selects no masked position of a row, the most confident one is
    committed, unless the row :meth:`waits`. A front block therefore takes at most as many forwards as it has tokens.
    """

    @property
    def reads_confidence(self) -> bool:
        """Whether the positions that are committed depend on the confidences of the proposal."""
        return True

    @abstractmethod
    def select(self, state: BlockState, proposal: Proposal, features: Tensor | None) -> Tensor:
        """Return the positions to commit, ``[R, T]`` bool; values at unmasked positions are ignored.

        Args:
            state: The blocks that were fed to the model.
            proposal: The proposed tokens and their confidences, ``[R, T]``; token 0 with confidence 0 at unmasked
                positions.
            features: ``[R, T, m]`` result of :meth:`features`, zeros at unmasked positions; None without features.
        """

    def features(self, logits: Tensor) -> Tensor | None:
        """Return what :meth:`select` needs of a position in addition to its proposal, ``[..., m]``; None for nothing.

        Args:
            logits: ``[..., V]``.
        """
        return None

    def waits(self, state: BlockState) -> Tensor | None:
        """Return the blocks that may commit nothing in this forward, ``[R]`` bool; None for none.

        Only blocks behind the front block of a window may.

        Args:
            state: The blocks that were fed to the model.
        """
        return None

    def step(self, state: BlockState, logits: Tensor, special: SpecialTokens) -> BlockState:
        """Commit the selected positions, or else the most confident one; converged when no mask is left."""
        return self._commit(state, propose(state, logits, state.masked), self._features_of_masks(state, logits))

    def _features_of_masks(self, state: BlockState, logits: Tensor) -> Tensor | None:
        features = self.features(logits)
        return None if features is None else features.masked_fill(~state.masked.unsqueeze(-1), 0.0)

    def _commit(self, state: BlockState, proposal: Proposal, features: Tensor | None) -> BlockState:
        selected = self.select(state, proposal, features)
        _check_selected(type(self).__name__, selected, state.masked)
        commit = state.masked & selected
        may_wait = commit.any(1, keepdim=True)
        if (waits := self.waits(state)) is not None:
            may_wait |= waits.unsqueeze(1)
        # To ask whether a row is left is cheaper than to rank on a CPU, and would wait for a GPU.
        if commit.device.type != "cpu" or not may_wait.all():
            commit = torch.where(may_wait, commit, most_confident(proposal, state.masked))
        masked = state.masked ^ commit
        return state.advance(torch.where(commit, proposal.tokens, state.ids), masked, ~masked.any(1))

    def _needed_positions(self, state: BlockState) -> Tensor | None:
        """Return the masked positions, or None for a subclass with its own ``step``, which may use all logits."""
        return state.masked if type(self).step is CommittingDecoder.step else None

    def _step_sparse(self, state: BlockState, logits: Tensor, needed: Tensor, special: SpecialTokens) -> BlockState:
        """Commit from the logits of the masked positions alone, without a dense copy unless tokens are drawn."""
        if state.sampling is not None:
            return super()._step_sparse(state, logits, needed, special)
        features = self.features(logits)
        if features is not None:
            features = features.new_zeros(*needed.shape, features.shape[-1]).index_put_((needed,), features)
        return self._commit(state, scatter_proposal(argmax_proposal(logits), needed), features)


def _check_selected(name: str, selected: object, masked: Tensor) -> None:
    """Refuse a selection that is not bool or does not fit the block.

    Raises:
        UserError: If so.
    """
    if isinstance(selected, Tensor):
        sizes = zip(reversed(selected.shape), reversed(masked.shape), strict=False)
        fits = selected.shape == masked.shape or (selected.dim() <= 2 and all(size in (1, n) for size, n in sizes))
        if selected.dtype == torch.bool and fits:
            return
        kind = f"{str(selected.dtype).removeprefix('torch.')} of shape {list(selected.shape)}"
    else:
        kind = f"a value of type {type(selected).__name__}"
    raise UserError(f"decoder {name}: expected select to return bool of shape {list(masked.shape)}, got {kind}")
