"""Reading prompts: from the rows of a file, or from standard input."""

import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from dmaxlit.errors import PromptError, UserError
from dmaxlit.tasks.columns import other_columns
from dmaxlit.tasks.records import BadRows, read_records
from dmaxlit.tasks.sources import is_collection, record_suffix
from dmaxlit.tasks.text_files import decoded, open_text, rows_of_text
from dmaxlit.tasks.unicode import lone_surrogate

_COLUMNS = ("prompt", "question")
_LONGEST_QUOTE = 80


@dataclass(frozen=True)
class PromptRow:
    """One prompt of a file.

    Args:
        text: The prompt.
        location: File and row, for messages to the user.
        extra: The other columns of the row.
    """

    text: str
    location: str
    extra: Mapping[str, Any] = field(default_factory=dict)


def read_prompts(source: str) -> list[PromptRow]:
    """Read prompts from a file or, for ``-``, from standard input.

    Args:
        source: ``.jsonl``, ``.json`` or ``.parquet`` with objects that have ``prompt`` or ``question``, or with texts;
            a folder of these or a pattern; otherwise one prompt a line. Files of text may be compressed (``.gz``).

    Raises:
        UserError: If there is no such file, it has no prompt, or a row is not one; the message names the row.
    """
    if source == "-":
        prompts = list(_lines(decoded(io.BytesIO(sys.stdin.buffer.read())), source))
    elif record_suffix(source) is not None or is_collection(source):
        records = read_records(source, "train", BadRows("error"), "prompts")
        prompts = [_row(record, location) for location, record in records]
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


def _row(record: Any, location: str) -> PromptRow:
    prompt, extra = record, {}
    if isinstance(record, dict):
        name = next((name for name in _COLUMNS if record.get(name) is not None), "prompt")
        prompt, extra = record.get(name), other_columns(record, {}, [name])
    if not isinstance(prompt, str) or not prompt.strip():
        quote = " ".join(str(record).split())[:_LONGEST_QUOTE]
        raise UserError(f"{location}: expected a text, or an object with a prompt or question, got {quote}")
    if (surrogate := lone_surrogate(prompt)) is not None:
        raise UserError(f"{location}: has a lone surrogate ({surrogate})")
    return PromptRow(prompt, location, extra)
