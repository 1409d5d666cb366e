"""The row of an answer in a file: the columns that came with the prompt, and ours."""

from collections.abc import Mapping
from typing import Any

from dmaxlit.engine import Generation
from dmaxlit.errors import UserError
from dmaxlit.tasks.json_values import TooDeepError, json_value

# Whatever a row can have, so that a column of the user's has the same name in every row and file.
_OURS = frozenset(
    (
        *("index", "prompt", "response", "token_ids", "num_tokens", "num_forwards", "finished"),
        *("hit_step_limit", "stopped", "num_extra_blocks", "correct"),
    )
)


def answer_row(index: int, columns: Mapping[str, Any], answer: Generation, **more: Any) -> dict[str, Any]:
    """Return the row of an answer.

    Args:
        index: Index of the prompt.
        columns: The columns that came with the prompt, from :func:`kept_columns`.
        answer: The answer.
        more: Further columns of ours.
    """
    return {"index": index, **columns, **answer.to_dict(), **more}


def kept_columns(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns that came with a prompt as they are kept in the row of its answer.

    One that has the name of a column of ours is kept as ``prompt_<name>``, for instance ``prompt_response``.

    Args:
        extra: The columns.

    Raises:
        UserError: If a value is nested too deeply.
    """
    kept: dict[str, Any] = {}
    for name in sorted(extra, key=_OURS.__contains__):  # the user's names come before those made of them
        column = name
        while column in _OURS or column in kept:
            column = f"prompt_{column}"
        try:
            kept[column] = json_value(extra[name])
        except TooDeepError as error:
            raise UserError(f"column {name!r} is nested too deeply") from error
    return kept


def columns_in(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns in a row that came with its prompt."""
    return {name: value for name, value in row.items() if name not in _OURS}
