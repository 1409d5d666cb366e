"""Prompts that a template wrote: a text, and the chat messages that a model's chat template gets instead of it."""

from collections.abc import Sequence
from typing import Any


class TemplatedPrompt(str):
    """The text of a prompt that knows whether it is a conversation or a text to continue.

    It is an ordinary text to whoever compares, prints or stores it. Where a model has a chat template, that is applied
    to the messages; a prompt without messages is encoded as text, which the model continues.

    Args:
        text: The whole prompt as text.
        messages: Chat messages (``role``, ``content``) up to the assistant's turn; None for a text to continue.
    """

    messages: list[dict[str, Any]] | None

    def __new__(cls, text: str, messages: Sequence[dict[str, Any]] | None = None) -> "TemplatedPrompt":
        """Make the text and attach the messages."""
        prompt = super().__new__(cls, text)
        prompt.messages = None if messages is None else list(messages)
        return prompt


def is_plain(prompt: object) -> bool:
    """Return whether a prompt is a text to continue, to which no chat template is applied."""
    return isinstance(prompt, TemplatedPrompt) and prompt.messages is None


def conversation_of(prompt: Any) -> Any:
    """Return what a chat template gets for a prompt: the messages of a templated one, or else the prompt itself."""
    return prompt.messages if isinstance(prompt, TemplatedPrompt) and prompt.messages is not None else prompt
