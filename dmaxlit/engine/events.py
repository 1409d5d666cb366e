"""What the engine reports of each forward."""

from dataclasses import dataclass

from torch import Tensor

from dmaxlit.decoding.base import BlockState
from dmaxlit.engine.request import DecodedSequence

__all__ = ["ForwardEvent"]


@dataclass(frozen=True)
class ForwardEvent:
    """The outcome of one forward of a batch of R blocks of T tokens.

    Args:
        prompt_indices: Index of the prompt in each row.
        block_starts: Position at which each row's block begins.
        state: The blocks after the decoder's step.
        logits: ``[R, T, V]`` logits of the blocks; None if only those that the decoder needs were computed.
        closed: Tokens of each block that is done, prompt tokens included, by row.
        finished: Responses that are done, by the index of their prompt.
    """

    prompt_indices: list[int]
    block_starts: list[int]
    state: BlockState
    logits: Tensor | None
    closed: dict[int, list[int]]
    finished: dict[int, DecodedSequence]
