"""Rows in the forms of other libraries, turned into ours."""

from collections.abc import Iterable, Mapping
from typing import Any

from dmaxlit.tasks.columns import rename_columns
from dmaxlit.tasks.text_files import parse_json

_ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model", "bot"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation"), "tool"),
    "system": "system",
}
_RESPONSES = ("response", "completion")
# The columns of each form.
_FORMS = (
    ("prompt", "response", "completion", "question", "answer"),
    ("messages",),
    ("conversations",),
    ("instruction", "input", "output", "history"),
    ("text",),
)
_OPTIONAL = ("input", "history", "system", "tools")
COLUMNS = ("prompt", "response", "messages", "conversations", "instruction", "output", "text", *_OPTIONAL)
PROMPT_COLUMNS = tuple(name for name in COLUMNS if name not in ("response", "output"))


def missing_column(record: Mapping[str, Any], columns: Mapping[str, str]) -> str | None:
    """Return the first column named by the user that a row has to have, and lacks; None for none."""
    return next(
        (column for name, column in columns.items() if name not in _OPTIONAL and record.get(column) is None), None
    )


def of_named_columns(record: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """Return a row with our names for the user's columns, without what other forms than the one they name read.

    Args:
        record: The row by its columns.
        columns: Our name of each column, one of :data:`COLUMNS`, with the user's.
    """
    named = [form for form in _FORMS if not columns.keys().isdisjoint(form)]
    other = {name for form in _FORMS if named and form not in named for name in form}
    return {name: value for name, value in rename_columns(record, columns).items() if name not in other}


def foreign_to_text(record: Mapping[str, Any]) -> list[str]:
    """Return the columns of a row that belong to another form than plain text, so that ``text`` may be only a part."""
    return [name for form in _FORMS if form != ("text",) for name in form if record.get(name) is not None]


def usual_form(record: dict[str, Any]) -> dict[str, Any]:
    r"""Return a row as texts or as ``messages``; unchanged if it has one of these forms, or none that is known.

    - ShareGPT: ``conversations``, a list of ``from`` and ``value``, perhaps with a column ``system``. The value of a
      ``function_call`` is JSON, one call or a list of them.
    - Alpaca: ``instruction``, perhaps ``input``, and ``output``. The prompt is instruction and input, joined by a line
      break. Rows with ``system`` or ``history``, a list of pairs, are conversations.
    - TRL: ``prompt`` and ``completion``, one of them or both a list of messages.

    Args:
        record: The row by its columns.
    """
    record = _with_listed_turns(record)
    if record.get("messages") is not None:
        return record
    response = next((record[name] for name in _RESPONSES if record.get(name) is not None), None)
    prompt = record.get("prompt")
    if None not in (prompt, response) and (_is_messages(prompt) or _is_messages(response)):
        return {**record, "messages": [*_turns(prompt, "user"), *_turns(response, "assistant")]}
    if isinstance(prompt, str) and isinstance(response, str):
        return record
    if isinstance(record.get("conversations"), list):
        return _conversation(record, map(_message, record["conversations"]))
    if record.get("instruction") is not None and record.get("output") is not None:
        return _alpaca(record)
    return record


def prompt_form(record: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the prompt of a row, under ``prompt`` or as ``messages``, with the names of the columns it is made of.

    These are, in this order, ``prompt`` or ``question`` (a text, or messages), ``messages``, and the forms of ShareGPT
    and Alpaca, as in :func:`usual_form`; a response may be absent. A row of no form has no prompt.

    Args:
        record: The row by its columns.
    """
    record = _with_listed_turns(record)
    for name in ("prompt", "question"):
        if (value := record.get(name)) is not None:
            return {"messages" if _is_messages(value) else "prompt": value}, (name,)
    if record.get("messages") is not None:
        return {"messages": record["messages"]}, ("messages",)
    if isinstance(record.get("conversations"), list):
        form = _conversation(record, map(_message, record["conversations"]))
        return {"messages": form["messages"]}, ("conversations", "system")
    if record.get("instruction") is not None:
        form = _alpaca_prompt(record)
        columns = ("instruction", "input", "history", "system")
        return ({"messages": form["messages"]} if "messages" in form else {"prompt": form["instruction"]}), columns
    return {}, ()


def _with_listed_turns(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with lists of turns where it has objects of lists, as ``datasets`` reads sequences of objects."""
    return {name: _listed(value) if name in ("messages", "conversations") else value for name, value in record.items()}


def _listed(value: Any) -> Any:
    columns = list(value.values()) if isinstance(value, Mapping) else []
    if not columns or not all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns):
        return value
    return [dict(zip(value, turn, strict=True)) for turn in zip(*columns, strict=True)]


def _is_messages(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(turn, dict) for turn in value)


def _turns(value: Any, role: str) -> list[Any]:
    return value if isinstance(value, list) else [{"role": role, "content": value}]


def _conversation(record: Mapping[str, Any], turns: Iterable[Any]) -> dict[str, Any]:
    system = record.get("system")
    before = [] if system in (None, "") else [{"role": "system", "content": system}]
    return {**record, "messages": [*before, *turns]}


def _message(turn: Any) -> Any:
    """Return a turn of ShareGPT as a message; unchanged if it is none, so that it is refused where messages are."""
    if not isinstance(turn, dict) or not isinstance(turn.get("from"), str) or turn.get("role") is not None:
        return turn
    if turn["from"] == "function_call":
        return {"role": "assistant", **_calls(turn.get("value"))}
    role = _ROLES.get(turn["from"])
    return turn if role is None else {"role": role, "content": turn.get("value")}


def _calls(value: Any) -> dict[str, Any]:
    """Return the calls that ShareGPT has as JSON in a text, in the form of messages; another text as it is."""
    try:
        parsed = parse_json(value) if isinstance(value, str) else value
    except ValueError:
        parsed = value
    calls = parsed if isinstance(parsed, list) else [parsed]
    if calls and all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
        return {"tool_calls": [{"type": "function", "function": call} for call in calls]}
    return {"function_call": value}


def _alpaca(record: Mapping[str, Any]) -> dict[str, Any]:
    form = _alpaca_prompt(record)
    if "messages" in form:
        form["messages"] += _turns(record["output"], "assistant")
    return form


def _alpaca_prompt(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with its whole prompt as ``instruction`` or, if it is a conversation, as ``messages``."""
    parts = [part for part in (record["instruction"], record.get("input")) if part not in (None, "")]
    prompt = "\n".join(parts) if all(isinstance(part, str) for part in parts) else parts
    history = record.get("history") or []
    if not history and record.get("system") in (None, ""):
        return {**record, "instruction": prompt}
    pairs = history if isinstance(history, list) else [history]
    before: list[Any] = []
    for pair in pairs:
        is_pair = isinstance(pair, (list, tuple)) and len(pair) == 2  # what is not is refused where messages are
        before += [*_turns(pair[0], "user"), *_turns(pair[1], "assistant")] if is_pair else [pair]
    return _conversation(record, [*before, *_turns(prompt, "user")])
