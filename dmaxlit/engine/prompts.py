"""What users may pass as prompts."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from dmaxlit.data.encoding import Prompt
from dmaxlit.data.messages import CALLS, Conversation, text_of
from dmaxlit.errors import UserError, describe_value
from dmaxlit.tasks.unicode import check_text

__all__ = ["Prompts", "as_prompts"]

#: One prompt or many. A text is one prompt, a list of chat messages is one prompt, a list of these are many.
Prompts: TypeAlias = str | Sequence[Mapping[str, Any]] | Iterable[str | Sequence[Mapping[str, Any]]]

_EXPECTED = "expected a text or a list of chat messages"


def as_prompts(prompts: Prompts) -> list[Prompt]:
    """Return a list with one entry for each prompt: its text, or its messages.

    Args:
        prompts: A text, a list of chat messages, or a list of these.

    Raises:
        UserError: For anything else, or a message whose ``role`` or ``content`` is missing or no text, and for a lone
            surrogate, which no tokenizer takes.
    """
    if isinstance(prompts, str):
        return [_prompt("prompts", prompts)]
    if isinstance(prompts, (bytes, Mapping)) or not isinstance(prompts, Iterable):
        raise UserError(f"prompts: {_EXPECTED}, or a list of these, got {describe_value(prompts)}")
    items: list[Any] = list(prompts)
    if items and all(isinstance(item, Mapping) for item in items):
        return [_prompt("prompts", items)]
    return [_prompt(f"prompts[{index}]", item) for index, item in enumerate(items)]


def shown_prompt(prompt: Prompt) -> str:
    """Return a prompt as readers see it: its text, or its messages, each behind its role."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{turn['role']}: {text_of(turn.get('content')) or ''}" for turn in prompt)


def as_prompt(prompt: str | Sequence[Mapping[str, Any]]) -> Prompt:
    """Return one prompt: its text, or its messages.

    Raises:
        UserError: For anything else, several prompts among it.
    """
    return _prompt("prompt", prompt)


def _prompt(name: str, prompt: Any) -> Prompt:
    check_text(name, [prompt, getattr(prompt, "tools", None)])
    if isinstance(prompt, str):
        return prompt
    if not isinstance(prompt, Sequence) or isinstance(prompt, bytes):
        raise UserError(f"{name}: {_EXPECTED}, got {describe_value(prompt)}")
    return _conversation(name, prompt)


def _conversation(name: str, messages: Sequence[Any]) -> Conversation:
    if not messages:
        raise UserError(f"{name}: expected at least one message, got an empty list")
    return Conversation(
        [_message(f"{name}[{index}]", message) for index, message in enumerate(messages)],
        tools=getattr(messages, "tools", None),
    )


def _message(name: str, message: Any) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise UserError(f"{name}: expected a message with role and content, got {describe_value(message)}")
    is_call = any(message.get(name) for name in CALLS)  # a turn of nothing but calls has no content
    missing = [key for key in ("role", "content") if key not in message and not (key == "content" and is_call)]
    if missing:
        raise UserError(f"{name}: expected a message with role and content, got one without {' and '.join(missing)}")
    if not isinstance(message["role"], str):
        raise UserError(f"{name}: expected a text as role, got {describe_value(message['role'])}")
    content = message.get("content")
    if content is None:
        return dict(message)
    text = text_of(content)
    if text is None:
        came = "a list with other parts" if isinstance(content, (list, tuple)) and content else describe_value(content)
        raise UserError(f"{name}: expected a text or a list of text parts as content, got {came}")
    return {**message, "content": text}
