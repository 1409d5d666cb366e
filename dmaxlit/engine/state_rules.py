"""Rules about the values of a block's state, which a user's own decoder may break."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from dmaxlit.decoding.base import BlockState


class NewBlocks(NamedTuple):
    """What a decoder receives of new blocks, with which its states are compared.

    Args:
        ids: ``[R, T]`` prompt tokens.
        editable: ``[R, T]`` bool.
        mask_id: Id of the mask token.
        vocab_size: Number of token ids.
    """

    ids: Tensor
    editable: Tensor
    mask_id: int
    vocab_size: int


class StateRule(NamedTuple):
    """A rule about the values of a state whose types and shapes are right.

    Args:
        name: The rule in a few words.
        text: What comes after "expected step"; it may contain ``{last_id}``.
        broken: Receives the state and what its blocks began with; returns a bool tensor that is True wherever the rule
            is broken, or None if the rule does not concern the state.
    """

    name: str
    text: str
    broken: Callable[[BlockState, NewBlocks], Tensor | None]


def _odd_mixtures(state: BlockState, new: NewBlocks) -> Tensor | None:
    if state.soft is None:
        return None
    weights = state.soft.weights.float()
    return state.soft.where & ~((weights >= 0).all(-1) & ((weights.sum(-1) - 1).abs() < 1e-2))


def _beyond(ids: Tensor, new: NewBlocks) -> Tensor:
    return (ids < 0) | (ids >= new.vocab_size)


def _changed_in_extra_blocks(state: BlockState, new: NewBlocks) -> Tensor | None:
    if state.extra_blocks is None:
        return None
    return (state.extra_blocks != new.ids.unsqueeze(1)) & ~new.editable.unsqueeze(1)


STATE_RULES = (
    StateRule(
        "the prompt stays as it is",
        "to leave the prompt's tokens as they are, but it changed some",
        lambda state, new: ~new.editable & (state.ids != new.ids),
    ),
    StateRule(
        "editable stays as it is",
        "to leave editable as it is, but it changed some",
        lambda state, new: state.editable != new.editable,
    ),
    StateRule(
        "the prompt is never masked",
        "to mask no position of the prompt, but it masked some",
        lambda state, new: state.masked & ~new.editable,
    ),
    StateRule(
        "token ids are in the vocabulary",
        "to return token ids from 0 to {last_id}, got others",
        lambda state, new: _beyond(state.ids, new),
    ),
    StateRule(
        "a converged block has no masks",
        "to leave no masks in a block that has converged, but it left some",
        lambda state, new: state.masked & state.converged.unsqueeze(1),
    ),
    StateRule(
        "the mask token is never decided on",
        "to decide on tokens other than the mask, but it took the mask",
        lambda state, new: (state.ids == new.mask_id) & new.editable & ~state.masked,
    ),
    StateRule(
        "masked positions hold the mask token",
        "to hold the mask token at every masked position, but it holds others",
        lambda state, new: state.masked & new.editable & (state.ids != new.mask_id),
    ),
    StateRule(
        "soft tokens are in the response",
        "to put no soft tokens in the prompt, but it put some",
        lambda state, new: None if state.soft is None else state.soft.where & ~new.editable,
    ),
    StateRule(  # also where they are not fed: they are embedded with the others
        "soft tokens are in the vocabulary",
        "to return soft tokens from 0 to {last_id} at all positions, got others",
        lambda state, new: None if state.soft is None else _beyond(state.soft.ids, new),
    ),
    StateRule(
        "soft tokens are weighted means",
        "to return soft weights of at least 0 with sum 1, got others",
        _odd_mixtures,
    ),
    StateRule(
        "extra blocks are in the vocabulary",
        "to return token ids from 0 to {last_id} in extra_blocks, got others",
        lambda state, new: None if state.extra_blocks is None else _beyond(state.extra_blocks, new),
    ),
    StateRule(
        "the prompt stays in extra blocks",
        "to leave the prompt as it is in extra_blocks, but it changed some",
        _changed_in_extra_blocks,
    ),
)
