"""Rules about the values of a view, which a user's own noise strategy may break."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from dmaxlit.noise.base import View
from dmaxlit.tokens import CleanBatch, Role


class ViewRule(NamedTuple):
    """A rule about the values of a view whose types and shapes are right.

    Args:
        name: The rule in a few words.
        text: What comes after "expected view NAME"; it may contain ``{last_id}``.
        broken: Receives the view, the clean batch, and its ids as they were before; returns the positions
            (or blocks, bool) that break the rule, or None if the rule does not concern the view.
    """

    name: str
    text: str
    broken: Callable[[View, CleanBatch, Tensor], Tensor | None]


VIEW_RULES = (
    ViewRule(
        "the clean batch is not written to",
        "to leave the clean batch unchanged, but it wrote to its ids",
        lambda view, clean, ids: clean.ids != ids,
    ),
    ViewRule(
        "prompts and pads stay as they are",
        "to leave prompts and pads as they are, but it changed some",
        lambda view, clean, ids: ~clean.response & (view.ids != ids),
    ),
    ViewRule(
        "prompts and pads are not supervised",
        "to supervise positions of the response only, but it supervises prompts or pads",
        lambda view, clean, ids: ~clean.response & view.supervised,
    ),
    ViewRule(
        "token ids are in the vocabulary",
        "to hold token ids from 0 to {last_id}, got others",
        lambda view, clean, ids: clean.response & ((view.ids < 0) | (view.ids >= clean.special.vocab_size)),
    ),
    ViewRule(
        "masks are where is_masked says so",
        "to hold the mask token where is_masked says so, but it holds others",
        lambda view, clean, ids: (
            None if view.is_masked is None else view.is_masked & (view.ids != clean.special.mask_id)
        ),
    ),
    ViewRule(
        "soft tokens are in the response",
        "to put soft tokens in the response only, but it puts them in prompts or pads",
        lambda view, clean, ids: None if view.soft is None else ~clean.response & view.soft.where,
    ),
    ViewRule(  # also where they are not fed: they are embedded with the others
        "soft tokens are in the vocabulary",
        "to hold soft tokens from 0 to {last_id} at all positions, got others",
        lambda view, clean, ids: (
            None if view.soft is None else (view.soft.ids < 0) | (view.soft.ids >= clean.special.vocab_size)
        ),
    ),
    ViewRule(
        "groups do not fall along a row",
        "to number groups of blocks in the order of the row, but a number falls",
        lambda view, clean, ids: None if view.groups is None else view.groups.diff(dim=1) < 0,
    ),
    ViewRule(
        "blocks without response tokens are groups by themselves",
        "to put a block without response tokens in a group by itself, but another block shares its group",
        lambda view, clean, ids: None if view.groups is None else _share_a_prompt(view.groups, clean),
    ),
)


def _share_a_prompt(groups: Tensor, clean: CleanBatch) -> Tensor:
    """Return the blocks that share the group of a prompt, which has no noisy copy to attend to."""
    roles = clean.roles.view(*groups.shape, clean.block_length)
    has_response = ((roles == Role.RESPONSE) | (roles == Role.FILL)).any(-1)
    is_prompt = (roles == Role.PROMPT).any(-1) & ~has_response
    same = (groups.unsqueeze(1) == groups.unsqueeze(2)).tril(-1)  # with an earlier block
    return (same & (is_prompt.unsqueeze(1) | is_prompt.unsqueeze(2))).any(2)
