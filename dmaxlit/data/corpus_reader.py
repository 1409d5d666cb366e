"""Reading a corpus: pairs of prompt and response from records in any of the usual forms."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dmaxlit.data.encoding import Prompt
from dmaxlit.tasks.records import BadRows, read_records

_COLUMNS = (("prompt", "response"), ("question", "answer"))
_EXPECTED = "expected the columns prompt and response, question and answer, or messages"


@dataclass(frozen=True)
class Row:
    """One training pair.

    Args:
        prompt: Text, or chat messages.
        response: Text of the final turn.
        location: File and row, for messages to the user.
    """

    prompt: Prompt
    response: str
    location: str


def read_corpus(source: str, split: str, bad: BadRows) -> Iterator[Row]:
    """Yield the usable pairs of one corpus, in order.

    Args:
        source: See :func:`~dmaxlit.tasks.records.read_records`.
        split: Split of a hub data set.
        bad: Receives the rows that cannot be used.

    Raises:
        UserError: If it cannot be read, or for a bad row under the policy ``error``.
    """
    for location, record in read_records(source, split, bad):
        row = _row_of(location, record, bad)
        if row is not None:
            yield row


def _row_of(location: str, record: Any, bad: BadRows) -> Row | None:
    if not isinstance(record, dict):
        bad.add(location, "has wrong columns", f"{_EXPECTED}, got a {type(record).__name__}")
        return None
    if record.get("messages") is not None:
        return _row_of_messages(location, record["messages"], bad)
    columns = next((pair for pair in _COLUMNS if all(record.get(name) is not None for name in pair)), None)
    if columns is None:
        bad.add(location, "has wrong columns", f"{_EXPECTED}, got {', '.join(map(str, record)) or 'none'}")
        return None
    for name in columns:
        if not isinstance(record[name], str):
            bad.add(location, f"has a {name} that is not text", f"got a {type(record[name]).__name__}")
            return None
        if not record[name].strip():
            bad.add(location, f"has an empty {name}")
            return None
    return Row(record[columns[0]], record[columns[1]], location)


def _row_of_messages(location: str, messages: Any, bad: BadRows) -> Row | None:
    turns = messages if isinstance(messages, list) else []
    texts = [
        (turn["role"], turn["content"])
        for turn in turns
        if isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
    ]
    if not texts or len(texts) < len(turns):
        bad.add(location, "has messages that are not a list of role and content texts")
        return None
    *context, (_, response) = texts
    if len(texts) < 2 or texts[-1][0] != "assistant":
        bad.add(location, "has messages that do not end in an assistant turn after a prompt")
        return None
    if not response.strip() or not any(content.strip() for _, content in context):
        bad.add(location, "has an empty prompt or response")
        return None
    return Row([{"role": role, "content": content} for role, content in context], response, location)
