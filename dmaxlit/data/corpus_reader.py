"""Corpora: pairs of prompt and response from records in any of the usual forms."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dmaxlit.data.encoding import Prompt
from dmaxlit.tasks.records import BadRows, read_records

__all__ = ["Row", "read_corpus"]

_COLUMNS = (("prompt", "response"), ("question", "answer"))
_EXPECTED = "expected the columns prompt and response, question and answer, or messages"


@dataclass(frozen=True)
class Row:
    """One pair to learn from.

    Args:
        prompt: Text, or chat messages.
        response: Text of the final turn.
        place: Where it stands, for messages to the user.
    """

    prompt: Prompt
    response: str
    place: str


def read_corpus(source: str, split: str, bad: BadRows) -> Iterator[Row]:
    """The usable pairs of one corpus, in order.

    Args:
        source: See :func:`read_records`.
        split: Split of a hub data set.
        bad: Receives the rows that cannot be used.

    Raises:
        UserError: If it cannot be read, or for a bad row under the policy ``error``.
    """
    for place, record in read_records(source, split, bad):
        row = _row_of(place, record, bad)
        if row is not None:
            yield row


def _row_of(place: str, record: Any, bad: BadRows) -> Row | None:
    if not isinstance(record, dict):
        bad.add(place, "has wrong columns", f"{_EXPECTED}, got a {type(record).__name__}")
        return None
    if record.get("messages") is not None:
        return _row_of_messages(place, record["messages"], bad)
    names = next((names for names in _COLUMNS if all(record.get(name) is not None for name in names)), None)
    if names is None:
        bad.add(place, "has wrong columns", f"{_EXPECTED}, got {', '.join(map(str, record)) or 'none'}")
        return None
    for name in names:
        if not isinstance(record[name], str):
            bad.add(place, f"has a {name} that is not text", f"got a {type(record[name]).__name__}")
            return None
        if not record[name].strip():
            bad.add(place, f"has an empty {name}")
            return None
    return Row(record[names[0]], record[names[1]], place)


def _row_of_messages(place: str, messages: Any, bad: BadRows) -> Row | None:
    turns = messages if isinstance(messages, list) else []
    texts = [
        (turn["role"], turn["content"])
        for turn in turns
        if isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
    ]
    if not texts or len(texts) < len(turns):
        bad.add(place, "has messages that are not a list of role and content texts")
        return None
    *before, (_, response) = texts
    if len(texts) < 2 or texts[-1][0] != "assistant":
        bad.add(place, "has messages that do not end in an assistant turn after a prompt")
        return None
    if not response.strip() or not any(content.strip() for _, content in before):
        bad.add(place, "has an empty prompt or response")
        return None
    return Row([{"role": role, "content": content} for role, content in before], response, place)
