"""The result of checking every step of a worked answer."""

from dataclasses import dataclass

__all__ = ["StepReport"]


@dataclass(frozen=True)
class StepReport:
    """The result of an exact check of a worked answer.

    Args:
        right: Number of steps in which everything is right: the wording, what is computed, and the result.
        total: Number of steps the prompt requires.
        final: Whether the final answer is right.
        exact: Whether the whole text is a flawless answer: every step, the conclusion, and nothing else.
    """

    right: int
    total: int
    final: bool
    exact: bool
