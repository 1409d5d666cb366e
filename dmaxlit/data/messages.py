"""Chat messages: their text, and the tools that go with them."""

from collections.abc import Iterable, Mapping
from typing import Any

from dmaxlit.tasks.json_values import MAX_DEPTH, TooDeepError

#: Fields of a turn that has calls, and perhaps no content.
CALLS = ("tool_calls", "function_call")


class Conversation(list[dict[str, Any]]):
    """Chat messages, and the tools that the assistant may call.

    Args:
        messages: Objects with a ``role``, a ``content``, and whatever else the chat template reads, for instance
            ``tool_calls``.
        tools: Descriptions of the tools (JSON schemas); None for none.
    """

    def __init__(self, messages: Iterable[Mapping[str, Any]], tools: list[dict[str, Any]] | None = None) -> None:
        super().__init__(dict(message) for message in messages)
        self.tools = tools or None


def text_of(content: Any) -> str | None:
    """Return the text of a message's content: a text, or a list of text parts, which are joined; None for any other."""
    if isinstance(content, str):
        return content
    if not isinstance(content, (list, tuple)):
        return None
    texts = [part.get("text") if _is_text_part(part) else part for part in content]
    return "".join(texts) if texts and all(isinstance(text, str) for text in texts) else None


def foreign_part(message: Any) -> str | None:
    """Return the type of the first part of a message's content that is not text, such as ``image_url``; None for none.

    Args:
        message: What stands for a message.
    """
    content = message.get("content") if isinstance(message, Mapping) else None
    parts = [part for part in content if isinstance(part, Mapping)] if isinstance(content, (list, tuple)) else []
    return next((str(part["type"]) for part in parts if not _is_text_part(part)), None)


def _is_text_part(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type", "text") == "text"


def without_nulls(value: Any, levels: int = MAX_DEPTH) -> Any:
    """Return a value without the keys that are null, wherever they are.

    In a Parquet file, every object of a column has all the keys of the others, with null for those that it lacks.

    Args:
        value: A value, or mappings and lists of values.
        levels: How many mappings and lists may lie in one another.

    Raises:
        TooDeepError: If more do.
    """
    if not isinstance(value, (Mapping, list, tuple)):
        return value
    if levels == 0:
        raise TooDeepError
    if isinstance(value, Mapping):
        return {key: without_nulls(item, levels - 1) for key, item in value.items() if item is not None}
    return [without_nulls(item, levels - 1) for item in value]
