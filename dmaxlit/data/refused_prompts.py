"""Prompts that a server refuses: they have no answer, but a server that refuses all of them has another fault."""

import warnings
from collections.abc import Callable

from dmaxlit.data.served_response import ServedResponse
from dmaxlit.errors import DMaxWarning, PromptError

_ALL_REFUSED = 16  # so many prompts, each of them refused, are the fault of the server or the settings


class RefusedPrompts:
    """Passes responses on; refusals only once a prompt is answered, and warns of the first.

    Args:
        address: Address of the server, for messages.
        receive: Called with the position of a prompt and its response.
        is_answered: Whether the server has answered another prompt before, with the same settings.

    Attributes:
        is_answered: Whether it has answered one, now or before.
    """

    def __init__(
        self, address: str, receive: Callable[[int, ServedResponse], object], is_answered: bool = False
    ) -> None:
        self._address, self._receive, self.is_answered = address, receive, is_answered
        self._is_warned = False
        self._held_back: list[tuple[int, ServedResponse]] = []

    def take(self, position: int, response: ServedResponse) -> None:
        """Take the response to the prompt at a position."""
        self.is_answered |= not response.refusal
        self._held_back.append((position, response))
        if self.is_answered:
            self._pass_on()

    def end(self) -> None:
        """Pass on what is left.

        Raises:
            PromptError: If the server has refused every prompt, of at least 16.
        """
        if not self.is_answered and len(self._held_back) >= _ALL_REFUSED:
            position, response = self._held_back[0]
            reason = f"refused by {self._address}, as all {len(self._held_back)} were: {response.refusal}"
            raise PromptError(position, reason)
        self._pass_on()

    def _pass_on(self) -> None:
        for position, response in self._held_back:
            if response.refusal and not self._is_warned:
                warning = f"a prompt is refused by {self._address}, and has no answer: {response.refusal}"
                warnings.warn(warning, DMaxWarning, stacklevel=2)
                self._is_warned = True
            self._receive(position, response)
        self._held_back.clear()
