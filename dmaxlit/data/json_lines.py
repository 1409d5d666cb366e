"""Files of rows that are written here, a JSON object on each line: one way to write them, and one to read them."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dmaxlit.errors import UserError
from dmaxlit.files import staged_file


def json_line(row: Mapping[str, Any]) -> bytes:
    """Return the line of a row, in UTF-8."""
    try:
        return f"{json.dumps(row, ensure_ascii=False)}\n".encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can hold as an escape
        return f"{json.dumps(row)}\n".encode()


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a file of rows in one step: at any moment it is either the old or the new one.

    Raises:
        OSError: If it cannot be written.
    """
    with staged_file(path) as staging, staging.open("wb") as file:
        file.writelines(map(json_line, rows))


def rows_with_offsets(path: Path, end: int | None = None, advice: str = "") -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each row of a file, after the byte at which it begins; one at a time in memory.

    Args:
        path: The file.
        end: Byte at which the last row ends. Default: the end of the file.
        advice: End of the message about a damaged row.

    Raises:
        OSError: If the file cannot be read.
        UserError: If a row is damaged.
    """
    begin = 0
    with path.open("rb") as file:
        while (end is None or begin < end) and (line := file.readline()):
            is_whole = end is None or begin + len(line) <= end
            try:
                row = json.loads(line) if is_whole else None
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                raise UserError(f"{path}: is damaged at byte {begin}{advice}")
            yield begin, row
            begin += len(line)
