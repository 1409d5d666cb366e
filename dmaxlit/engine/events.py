"""What the engine reports of each forward."""

from dataclasses import dataclass, field

from torch import Tensor

from dmaxlit.decoding.base import BlockState
from dmaxlit.engine.request import DecodedSequence

__all__ = ["ForwardEvent"]


@dataclass(frozen=True)
class ForwardEvent:
    """What came of one forward.

    Args:
        index: Number of the prompt in each row.
        start: Position where each row's block begins.
        state: The blocks after the decoder's step.
        logits: ``[R, T, V]`` the canvas's logits.
        closed: Tokens of the blocks that are done, prompt included, by row.
        finished: Responses that are done, by the prompt's number.
    """

    index: list[int]
    start: list[int]
    state: BlockState
    logits: Tensor
    closed: dict[int, list[int]]
    finished: dict[int, DecodedSequence] = field(default_factory=dict)
