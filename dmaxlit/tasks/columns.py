"""Columns of rows under names of the user's own."""

from collections.abc import Collection, Mapping
from typing import Any

from dmaxlit.errors import UserError, check_choice


def check_columns(columns: Mapping[str, str] | None, known: Collection[str]) -> dict[str, str]:
    """Return which column of the user's has the content of each of ours; empty for none.

    Args:
        columns: Our name of each column with the user's.
        known: Our names.

    Raises:
        UserError: For a name that is not among ours, or a column that is no text.
    """
    for name, column in (columns or {}).items():
        check_choice("columns", name, known)
        if not isinstance(column, str) or not column:
            raise UserError(f"columns.{name}: expected the name of a column, got {column!r}")
    return dict(columns or {})


def rename_columns(record: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """Return a row with our names for the user's columns; those it lacks are absent, all others stay.

    Args:
        record: The row by its columns.
        columns: Our name of each column with the user's.
    """
    others = {name: value for name, value in record.items() if name not in columns}
    return others | {name: record[column] for name, column in columns.items() if column in record}


def other_columns(record: Mapping[str, Any], columns: Mapping[str, str], used: Collection[str]) -> dict[str, Any]:
    """Return the columns of a row that are not used, under the user's names.

    Args:
        record: The row by its columns.
        columns: Our name of each column with the user's.
        used: Our names of the columns that are used.
    """
    names = {columns.get(name, name) for name in used}
    return {name: value for name, value in record.items() if name not in names}
