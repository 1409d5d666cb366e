"""Conversations from the rows of a corpus or a file of prompts."""

from typing import Any

from dmaxlit.data.messages import CALLS, Conversation, foreign_part, text_of, without_nulls
from dmaxlit.tasks.json_values import TooDeepError
from dmaxlit.tasks.text_files import parse_json


class BadConversationError(ValueError):
    """A conversation that cannot be used.

    Args:
        reason: What is wrong, in words that many rows share.
        detail: What is particular to this row.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason} ({detail})" if detail else reason)
        self.reason, self.detail = reason, detail


def conversation_of(messages: Any, tools: Any = None) -> Conversation:
    """Return a conversation of one or more turns, each with one text as content, or with calls instead.

    Args:
        messages: What a row has as messages.
        tools: What it has as tools: a list of objects, that list as JSON in a text, or None.

    Raises:
        BadConversationError: If these are something else.
    """
    try:
        messages = without_nulls(messages)
    except TooDeepError as error:
        raise BadConversationError("has messages that are nested too deeply") from error
    try:
        tools = _tools(tools)
    except ValueError as error:
        raise BadConversationError("has tools that are not a list of objects", str(error)) from error
    turns = list(map(_turn, messages)) if isinstance(messages, list) else []
    usable = [turn for turn in turns if turn is not None]
    if not usable or len(usable) < len(turns):
        foreign = map(foreign_part, messages if turns else ())
        if (kind := next(filter(None, foreign), None)) is not None:
            raise BadConversationError("has a message with a part that is not text", f"got {kind!r}")
        raise BadConversationError("has messages that are not a list of role and content texts")
    return Conversation(usable, tools)


def _turn(message: Any) -> dict[str, Any] | None:
    """Return a message whose content is one text, or which has calls instead; None for any other."""
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        return None
    turn = {name: value for name, value in message.items() if name not in CALLS or value}
    text = text_of(turn.get("content"))
    if text is not None:
        return turn | {"content": text}
    return turn if "content" not in turn and any(name in turn for name in CALLS) else None


def _tools(column: Any) -> list[dict[str, Any]] | None:
    """Return the tools of a row, which some data sets hold as JSON in a text; None for none.

    Raises:
        ValueError: If they are not a list of objects.
    """
    if isinstance(column, str):
        column = parse_json(column) if column.strip() else None
    tools = without_nulls(column) or None
    if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise ValueError(f"got a {type(tools).__name__}")
    return tools
