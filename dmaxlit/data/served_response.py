"""What a server answers to a prompt."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ServedResponse:
    """A response of a server.

    Args:
        text: Its text.
        finished: Whether it ended by itself (``finish_reason`` is ``stop``), not at a limit.
        num_tokens: Tokens that the server counts.
        num_forwards: Forwards that it took, as ``dmaxlit serve`` says; 0 from other servers.
        refusal: Why the server refuses the prompt, for instance as too long; empty if it does not.
    """

    text: str
    finished: bool
    num_tokens: int
    num_forwards: int = 0
    refusal: str = ""
