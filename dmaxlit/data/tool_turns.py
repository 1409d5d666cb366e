"""Turns of tools in a corpus: calls by the assistant, and what the tools answered."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from dmaxlit.data.conversation_rows import BadConversationError
from dmaxlit.data.messages import CALLS, Conversation
from dmaxlit.tasks.json_values import json_value

_TOOL_ROLES = ("tool", "function", "ipython", "observation")
_BAD_CALL = "has a call that is not a name and arguments"


def first_tool_turn(conversation: Conversation) -> tuple[int, str] | None:
    """Return the number of the first turn of a tool or with a call, from 1, and what makes it one; None for none.

    Args:
        conversation: The conversation.
    """
    for number, turn in enumerate(conversation, start=1):
        if turn["role"] in _TOOL_ROLES:
            return number, f"the role {turn['role']!r}"
        if (name := next(filter(turn.get, CALLS), None)) is not None:
            return number, repr(name)
    return None


def tools_as_text(conversation: Conversation) -> Conversation:
    r"""Return a conversation in which calls and answers of tools are text, as templates of Hermes and Qwen write it.

    A call follows the assistant's text as ``<tool_call>\n{"name": ..., "arguments": ...}\n</tool_call>``. Answers are a
    turn of the user, with ``<tool_response>\n...\n</tool_response>`` for each of those in a row.

    Args:
        conversation: The conversation; its tools are kept.

    Raises:
        BadConversationError: For a call that has no name.
    """
    turns: list[dict[str, Any]] = []
    joins = False
    for turn in conversation:
        if turn["role"] in _TOOL_ROLES:
            text = _enclosed("tool_response", turn.get("content", ""))
            if joins:
                turns[-1]["content"] += "\n" + text
            else:
                turns.append({"role": "user", "content": text})
            joins = True
        else:
            turns.append(_with_calls_as_text(turn))
            joins = False
    return Conversation(turns, conversation.tools)


def _with_calls_as_text(turn: Mapping[str, Any]) -> dict[str, Any]:
    calls = [_enclosed("tool_call", call) for call in _calls(turn)]
    kept = {name: value for name, value in turn.items() if name not in CALLS}
    said = [turn["content"]] if turn.get("content", "").strip() else []
    return kept | {"content": "\n".join([*said, *calls])} if calls else kept


def _calls(turn: Mapping[str, Any]) -> Iterator[str]:
    """Yield the calls of a turn as JSON, or as they are where ShareGPT has them as another text."""
    for field in filter(turn.get, CALLS):
        for call in turn[field] if isinstance(turn[field], list) else [turn[field]]:
            if isinstance(call, str):
                yield call
                continue
            function = call.get("function", call) if isinstance(call, Mapping) else None
            if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
                raise BadConversationError(_BAD_CALL)
            record = {"name": function["name"], "arguments": _parsed(function.get("arguments", {}))}
            yield json.dumps(record, ensure_ascii=False, default=json_value)  # Parquet files also have dates


def _parsed(arguments: Any) -> Any:
    """Return arguments that are JSON in a text, as OpenAI's are, as the value they hold."""
    try:
        return json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        return arguments


def _enclosed(tag: str, text: str) -> str:
    return f"<{tag}>\n{text}\n</{tag}>"
