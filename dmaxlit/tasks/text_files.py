"""Files of text: one way to open them and to divide them into rows, for corpora, prompts and tasks."""

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from dmaxlit.errors import UserError, reason_of
from dmaxlit.tasks.json_values import MAX_DEPTH, TooDeepError
from dmaxlit.tasks.unicode import lone_surrogate

#: Suffixes of compressed files.
COMPRESSED = (".gz", ".zst")
_FIRST_BYTES = {b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst"}  # which no text in UTF-8 begins with


@contextmanager
def open_text(path: Path, argument: str) -> Iterator[TextIO]:
    """Open a file of text for reading; one whose name ends in ``.gz`` or ``.zst`` is decompressed.

    Args:
        path: The file.
        argument: The user's name for it, for messages.

    Raises:
        UserError: If it cannot be read, also while it is open, or is compressed in another way than its name says.
    """
    try:
        with path.open("rb") as file, _decompressed(file, path, argument) as content:
            yield decoded(content)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or reason_of(error)
        raise UserError(f"{argument}: cannot read {str(path)!r} ({reason})") from error


def _decompressed(file: io.BufferedReader, path: Path, argument: str) -> AbstractContextManager[BinaryIO]:
    first, suffix = file.peek(4), path.suffix.lower()
    compression = next((end for magic, end in _FIRST_BYTES.items() if first.startswith(magic)), suffix)
    if compression != suffix:
        raise UserError(f"{argument}: expected the name of {str(path)!r} to end in {compression!r}, as its content is")
    if suffix == ".gz":
        return cast("AbstractContextManager[BinaryIO]", gzip.open(file))
    if suffix == ".zst":
        import pyarrow as pa  # takes a while, and most files need none of it

        return cast("AbstractContextManager[BinaryIO]", pa.CompressedInputStream(file, "zstd"))
    return nullcontext(file)


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


def parse_yaml(text: str) -> Any:
    """Return the value that a YAML text holds.

    Raises:
        TooDeepError: If more than :data:`~dmaxlit.tasks.json_values.MAX_DEPTH` lists and mappings lie in one another.
        yaml.YAMLError: If it is no YAML.
        ValueError: If it has a value that cannot be, such as a date with a 13th month.
    """
    import yaml

    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):  # which does not recurse, as loading does
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise TooDeepError
    return yaml.safe_load(text)
