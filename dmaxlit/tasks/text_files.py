"""Files of text: one way to open them and to divide them into rows, for corpora, prompts and tasks."""

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from dmaxlit.errors import UserError, reason_of
from dmaxlit.tasks.unicode import lone_surrogate


@contextmanager
def open_text(path: Path, argument: str) -> Iterator[TextIO]:
    """Open a file of text for reading; one whose name ends in ``.gz`` is decompressed.

    Args:
        path: The file.
        argument: The user's name for it, for messages.

    Raises:
        UserError: If it cannot be read, also while it is open.
    """
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            yield decoded(cast("BinaryIO", file))
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or reason_of(error)
        raise UserError(f"{argument}: cannot read {str(path)!r} ({reason})") from error


def decoded(file: BinaryIO) -> TextIO:
    r"""Return the text of a file in UTF-8, without a byte order mark.

    A line ends with ``\n``, ``\r\n`` or ``\r``, and with no other character, so that U+2028 and form feeds are part of
    a text. Bytes that are not UTF-8 become lone surrogates; :func:`rows_of_text` tells in which row.
    """
    return io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline=None)


def rows_of_text(text: TextIO) -> Iterator[tuple[int, str | None]]:
    """Yield the number of each line that is not blank, from 1, with the line; None for one that is not UTF-8."""
    for number, line in enumerate(text, start=1):
        if line.strip():
            yield number, None if lone_surrogate(line) else line.removesuffix("\n")


def parse_json(text: str) -> Any:
    """Return the value that a JSON text holds.

    Raises:
        ValueError: If it is none, with the reason as message.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
