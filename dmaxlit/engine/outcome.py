"""What a forward has come to, on the host."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """What a forward has come to; one entry for each row of the state.

    Args:
        tokens: Tokens of each block.
        converged: Whether each block has converged.
        admits: Whether the window behind each block admits another one.
        at_limit: Rows of front blocks that have reached a limit.
    """

    tokens: list[list[int]]
    converged: list[bool]
    admits: list[bool]
    at_limit: set[int]
