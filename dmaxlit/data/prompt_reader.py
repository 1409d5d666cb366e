"""Reading prompts: from the rows of a file, or from standard input."""

import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from dmaxlit.data.conversation_rows import BadConversationError, conversation_of
from dmaxlit.data.encoding import Prompt
from dmaxlit.data.messages import Conversation
from dmaxlit.data.row_forms import PROMPT_COLUMNS, missing_column, of_named_columns, prompt_form
from dmaxlit.errors import PromptError, UserError
from dmaxlit.files import expanded
from dmaxlit.tasks.columns import check_columns, other_columns
from dmaxlit.tasks.json_values import TooDeepError, json_value
from dmaxlit.tasks.records import BadRows, read_records
from dmaxlit.tasks.sources import expected_files, is_collection, record_suffix
from dmaxlit.tasks.text_files import decoded, open_text, rows_of_text
from dmaxlit.tasks.unicode import lone_surrogate

_ANSWERED = ("user", "tool", "function", "ipython", "observation")  # roles whose turn the assistant answers
_LONGEST_QUOTE = 80


@dataclass(frozen=True)
class PromptRow:
    """One prompt of a file.

    Args:
        prompt: The prompt: its text, or its chat messages.
        location: File and row, for messages to the user.
        extra: The other columns of the row.
    """

    prompt: Prompt
    location: str
    extra: Mapping[str, Any] = field(default_factory=dict)


def read_prompts(source: str, columns: Mapping[str, str] | None = None) -> list[PromptRow]:
    """Read prompts from a file or, for ``-``, from standard input.

    Args:
        source: ``.jsonl``, ``.json`` or ``.parquet`` with texts, or with objects in a form that
            :func:`~dmaxlit.data.row_forms.prompt_form` knows; a folder of these or a pattern; otherwise one prompt a
            line. Files of text may be compressed (``.gz``, ``.zst``).
        columns: Our name of each column (:data:`~dmaxlit.data.row_forms.PROMPT_COLUMNS`) that has another in the file,
            with that.

    Raises:
        UserError: If there is no such file, it has no prompt, or a row is not one; the message names the row.
    """
    names = check_columns(columns, PROMPT_COLUMNS)
    if not source:
        raise UserError("prompts: expected a file, got an empty text")
    source = expanded(source)
    has_columns = source != "-" and (record_suffix(source) is not None or is_collection(source))
    if names and not has_columns:
        raise UserError(f"columns: expected prompts in {expected_files(False)}, got {source!r}")
    if source == "-":
        prompts = list(_lines(decoded(io.BytesIO(sys.stdin.buffer.read())), source))
    elif has_columns:
        records = read_records(source, "train", BadRows("error"), "prompts")
        prompts = [_row(record, location, names) for location, record in records]
    else:
        with open_text(Path(source), "prompts") as text:
            prompts = list(_lines(text, source))
    if not prompts:
        raise UserError(f"prompts: expected at least one, found none in {source!r}")
    return prompts


@contextmanager
def naming_rows(rows: Sequence[PromptRow]) -> Iterator[None]:
    """Name a prompt that cannot be decoded by its file and row.

    Args:
        rows: All prompts, in the order in which they are decoded; none where they came from elsewhere.

    Raises:
        UserError: For such a prompt.
    """
    try:
        yield
    except PromptError as error:
        if not rows:
            raise
        raise UserError(f"{rows[error.index].location}: {error.reason}") from error


def _lines(text: TextIO, source: str) -> Iterator[PromptRow]:
    for number, line in rows_of_text(text):
        location = f"{source}, row {number}"
        if line is None:
            raise UserError(f"{location}: expected text in UTF-8, got other bytes")
        yield PromptRow(line, location)


def _row(record: Any, location: str, names: Mapping[str, str]) -> PromptRow:
    row = record if isinstance(record, dict) else {}
    if (missing := missing_column(row, names)) is not None:
        raise UserError(f"{location}: expected the column {missing!r}, got {', '.join(row) or 'none'}")
    form, used = prompt_form(of_named_columns(row, names)) if isinstance(record, dict) else ({"prompt": record}, ())
    prompt: Prompt
    if "messages" in form:
        prompt = _conversation(form["messages"], row.get(names.get("tools", "tools")), location)
    else:
        prompt = form.get("prompt", "")
        if not isinstance(prompt, str) or not prompt.strip():
            quote = " ".join(str(record).split())[:_LONGEST_QUOTE]
            expected = "a text, or an object with a prompt or question, messages, conversations or an instruction"
            raise UserError(f"{location}: expected {expected}, got {quote}")
    if (surrogate := lone_surrogate([prompt, getattr(prompt, "tools", None)])) is not None:
        raise UserError(f"{location}: has a lone surrogate ({surrogate})")
    return PromptRow(prompt, location, other_columns(row, names, used))


def _conversation(messages: Any, tools: Any, location: str) -> Conversation:
    try:
        conversation = conversation_of(json_value(messages), json_value(tools))
    except TooDeepError as error:
        raise UserError(f"{location}: has messages or tools that are nested too deeply") from error
    except BadConversationError as error:
        raise UserError(f"{location}: {error}") from error
    if (role := conversation[-1]["role"]) not in _ANSWERED:
        raise UserError(
            f"{location}: expected messages that end in a user's turn, got one of {role[:_LONGEST_QUOTE]!r}"
        )
    if not any(turn.get("content", "").strip() for turn in conversation):
        raise UserError(f"{location}: has messages without a text")
    return conversation
