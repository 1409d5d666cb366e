"""Decoding with token editing (LLaDA2.1, arXiv 2602.08676)."""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from dmaxlit.decoding.base import DECODERS, BlockState, Decoder
from dmaxlit.decoding.proposal import most_confident, propose
from dmaxlit.errors import check_at_least, check_choice, check_fraction
from dmaxlit.tokens import SpecialTokens

__all__ = ["EditDecoder"]

_PRESETS = {"quality": (0.7, 0.5), "speed": (0.5, 0.0)}


@DECODERS.register("edit")
class EditDecoder(Decoder):
    """Fill masks above ``tau_mask``, and replace visible tokens where the model prefers another above ``tau_edit``.

    At each forward masked positions with ``c_i > tau_mask`` are filled, at least the most confident one, and visible
    tokens with a different top-1 token and ``c_i > tau_edit`` are overwritten. When no mask is left, editing continues
    until a forward changes nothing, or for ``max_post_edit_steps`` forwards.

    Args:
        preset: ``quality`` (0.7, 0.5) or ``speed`` (0.5, 0.0): the defaults of ``tau_mask`` and ``tau_edit``.
        tau_mask: In [0, 1].
        tau_edit: In [0, 1]; 1 never edits.
        max_post_edit_steps: Most forwards after the last mask is gone, at least 0.
        max_steps: Most forwards for one block, at least 1. Default: the block length plus ``max_post_edit_steps``.
    """

    def __init__(
        self,
        preset: Literal["quality", "speed"] = "quality",
        tau_mask: float | None = None,
        tau_edit: float | None = None,
        max_post_edit_steps: int = 16,
        max_steps: int | None = None,
    ) -> None:
        super().__init__(max_steps)
        check_choice("preset", preset, _PRESETS)
        check_at_least(0, max_post_edit_steps=max_post_edit_steps)
        mask, edit = _PRESETS[preset]
        self.tau_mask = check_fraction("tau_mask", mask if tau_mask is None else tau_mask)
        self.tau_edit = check_fraction("tau_edit", edit if tau_edit is None else tau_edit)
        self.max_post_edit_steps = max_post_edit_steps

    def start(self, ids: Tensor, editable: Tensor, special: SpecialTokens) -> BlockState:
        """Return the state of new blocks, with a count of the forwards after the last mask."""
        state = super().start(ids, editable, special)
        return replace(state, memory={"post": torch.zeros_like(state.step)})

    def step(self, state: BlockState, logits: Tensor, special: SpecialTokens) -> BlockState:
        """Fill and edit; converged when no mask is left and nothing changes."""
        proposal = propose(state, logits)
        tokens, confidence = proposal.tokens, proposal.confidence
        fill = state.masked & ((confidence > self.tau_mask) | most_confident(proposal, state.masked))
        edit = state.editable & ~state.masked & (tokens != state.ids) & (confidence > self.tau_edit)
        ids = torch.where(fill | edit, tokens, state.ids)
        masked = state.masked & ~fill

        post = state.memory["post"] + ~state.masked.any(1)
        settled = ~(fill | edit).any(1) | (post >= self.max_post_edit_steps)
        return state.advance(ids, masked, settled & ~masked.any(1), memory={"post": post})

    def max_steps(self, block_length: int) -> int:
        """Return the most forwards spent on one block of ``block_length`` tokens."""
        return block_length + self.max_post_edit_steps if self._max_steps is None else self._max_steps
