"""Reading a corpus: pairs of prompt and response, or plain texts, from records in any of the usual forms."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dmaxlit.data.chat_turns import ChatTurns
from dmaxlit.data.conversation_rows import BadConversationError, conversation_of
from dmaxlit.data.encoding import Prompt
from dmaxlit.data.row_forms import foreign_to_text, missing_column, of_named_columns, usual_form
from dmaxlit.tasks.records import BadRows, Document, read_records, read_table
from dmaxlit.tasks.unicode import lone_surrogate

if TYPE_CHECKING:
    from datasets import Dataset

_COLUMNS = (("prompt", "response"), ("question", "answer"), ("prompt", "completion"), ("instruction", "output"))
_EXPECTED = (
    "expected the columns prompt and response (or completion), question and answer, messages, conversations, "
    "instruction and output, or text alone"
)


@dataclass(frozen=True)
class Row:
    """One training pair, or a plain text.

    Args:
        prompt: Text, or chat messages with their tools; None for a plain text, all of which is learnt.
        response: Text of the final turn, or the plain text.
        location: File and row, and the turn if others of the conversation are learnt too, for messages to the user.
    """

    prompt: Prompt | None
    response: str
    location: str


def read_corpus(
    source: str,
    split: str,
    bad: BadRows,
    columns: Mapping[str, str] | None = None,
    table: "Dataset | None" = None,
    chat: ChatTurns | None = None,
) -> Iterator[Row]:
    """Return the usable pairs and plain texts of one corpus, in order; a conversation has one for each learnt turn.

    Args:
        source: See :func:`~dmaxlit.tasks.records.read_records`.
        split: Split of a hub data set.
        bad: Receives the rows that cannot be used.
        columns: Our name of each column (:data:`~dmaxlit.data.row_forms.COLUMNS`) that has another in the corpus, with
            that.
        table: The data set, if it is one of the hub's and loaded already.
        chat: Which turns of conversations are learnt. Default: the last, and conversations with tools are refused.

    Raises:
        UserError: If it cannot be read, or for a bad row under the policy ``error``.
    """
    records = read_records(source, split, bad, texts=True) if table is None else read_table(table, source, split)
    return rows_of(records, bad, columns or {}, chat)


def rows_of(
    records: Iterable[tuple[str, Any]], bad: BadRows, columns: Mapping[str, str], chat: ChatTurns | None = None
) -> Iterator[Row]:
    """Yield the usable pairs and plain texts among records, in order.

    Args:
        records: Location and content of each.
        bad: Receives the records that cannot be used.
        columns: As in :func:`read_corpus`.
        chat: As in :func:`read_corpus`.

    Raises:
        UserError: For a bad row under the policy ``error``.
    """
    chat = chat or ChatTurns()
    for location, record in records:
        rows = _rows_of(location, record, bad, columns, chat)
        if not rows:
            continue
        last = rows[-1]  # which has the turns of the others
        tools = getattr(last.prompt, "tools", None)
        if (surrogate := lone_surrogate([last.prompt, tools, last.response])) is not None:
            bad.add(location, "has a lone surrogate", surrogate)
            continue
        yield from rows


def _rows_of(location: str, record: Any, bad: BadRows, names: Mapping[str, str], chat: ChatTurns) -> list[Row]:
    """Return the rows of a record: one, or those of a conversation; none for a record that is bad."""
    if isinstance(record, Document):
        return _rows_of_text(location, record, bad)
    if not isinstance(record, dict):
        bad.add(location, "has wrong columns", f"{_EXPECTED}, got a {type(record).__name__}")
        return []
    if (missing := missing_column(record, names)) is not None:
        bad.add(location, "has wrong columns", f"expected {missing!r}, got {', '.join(map(str, record)) or 'none'}")
        return []
    record = usual_form(of_named_columns(record, names))
    if record.get("messages") is not None:
        return _rows_of_messages(location, record, bad, chat)
    columns = next((pair for pair in _COLUMNS if all(record.get(name) is not None for name in pair)), None)
    if columns is None:
        if record.get("text") is not None and not foreign_to_text(record):
            return _rows_of_text(location, record["text"], bad)
        bad.add(location, "has wrong columns", f"{_EXPECTED}, got {', '.join(map(str, record)) or 'none'}")
        return []
    for name in columns:
        if not isinstance(record[name], str):
            article = "an" if name[0] in "aeiou" else "a"
            bad.add(location, f"has {article} {name} that is not text", f"got a {type(record[name]).__name__}")
            return []
        if not record[name].strip():
            bad.add(location, f"has an empty {name}")
            return []
    return [Row(record[columns[0]], record[columns[1]], location)]


def _rows_of_text(location: str, text: Any, bad: BadRows) -> list[Row]:
    if not isinstance(text, str):
        bad.add(location, "has a text that is not text", f"got a {type(text).__name__}")
        return []
    if not text.strip():
        bad.add(location, "has an empty text")
        return []
    return [Row(None, text, location)]


def _rows_of_messages(location: str, record: dict[str, Any], bad: BadRows, chat: ChatTurns) -> list[Row]:
    try:
        learnt = chat.learnt(conversation_of(record["messages"], record.get("tools")))
    except BadConversationError as error:
        bad.add(location, error.reason, error.detail)
        return []
    places = [location if chat.turns == "last" else f"{location}, turn {turn.number}" for turn in learnt]
    return [Row(turn.context, turn.text, place) for turn, place in zip(learnt, places, strict=True)]
