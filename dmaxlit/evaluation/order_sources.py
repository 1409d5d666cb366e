"""Where the order of answers comes from: a model that decodes now, or a saved trace with its file of answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmaxlit.data.encoding import Prompt
from dmaxlit.engine import DecodeSettings, RowTrace, Trace
from dmaxlit.errors import UserError, describe_value
from dmaxlit.evaluation.order_figures import AnswerOrder
from dmaxlit.tasks import Example
from dmaxlit.tasks.text_files import open_text, parse_json, rows_of_text

if TYPE_CHECKING:
    from dmaxlit.module import DMaxModule

# The columns of a file of answers that are read, and their types.
_COLUMNS: dict[str, type | tuple[type, ...]] = {
    "index": int,
    "prompt": (str, list),
    "response": str,
    "token_ids": list,
}


def decoded_orders(
    module: DMaxModule, examples: Sequence[Example], settings: DecodeSettings, progress: bool = False
) -> list[AnswerOrder]:
    """Decode examples with a trace, and return the order of each answer.

    Args:
        module: The model.
        examples: Prompts with their checkers.
        settings: How to decode.
        progress: Show a progress bar.
    """
    trace = Trace()
    prompts = [example.prompt for example in examples]
    answers = module.generate_batch(prompts, settings, trace=trace, progress=progress)
    return [
        _order(trace.rows[index], answer.prompt, answer.text, answer.token_ids, example.check(answer.text))
        for index, (example, answer) in enumerate(zip(examples, answers, strict=True))
    ]


def stored_orders(trace_file: str | Path, answers_file: str | Path) -> list[AnswerOrder]:
    """Read the order of each answer from files that ``generate`` has written with the same settings.

    Args:
        trace_file: Of ``generate --trace_file``.
        answers_file: Of ``generate --output``: one JSON object a line. Answers with a verdict, ``correct``, are those
            to a task's prompts.

    Raises:
        UserError: If a file cannot be read, or they do not belong together.
    """
    rows, trace = _answers(Path(answers_file)), Trace.load(trace_file)
    if not rows:
        raise UserError(f"answers: expected at least one, got none in {str(answers_file)!r}")
    if set(rows) != set(trace.rows):
        raise UserError(
            f"answers: expected those of the {len(trace.rows)} prompts in {str(trace_file)!r}, "
            f"got {len(rows)} answers, of which {len(set(rows) & set(trace.rows))} are traced"
        )
    orders = []
    for index, row in sorted(rows.items()):
        traced, token_ids = trace.rows[index], row["token_ids"]
        if traced.timeline()[0][-1].tolist() != token_ids:
            raise UserError(
                f"answers: expected the tokens in {str(trace_file)!r}, got others for the prompt with index {index}"
            )
        orders.append(_order(traced, row["prompt"], row["response"], token_ids, row.get("correct")))
    return orders


def _order(row: RowTrace, prompt: Prompt, text: str, token_ids: Sequence[int], right: bool | None) -> AnswerOrder:
    return AnswerOrder(row.finalized(), row.block_of(), right, _text_of(prompt), text, tuple(token_ids))


def _text_of(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n".join(str(turn.get("content")) for turn in prompt)


def _answers(path: Path) -> dict[int, dict[str, Any]]:
    """Return the rows of a file of answers by the index of their prompt."""
    rows: dict[int, dict[str, Any]] = {}
    with open_text(path, "answers") as file:
        for number, line in rows_of_text(file):
            row = _row(f"answers: {path}, row {number}", line)
            if row["index"] in rows:
                raise UserError(f"answers: {path}, row {number}: expected another index, got {row['index']} again")
            rows[row["index"]] = row
    return rows


def _row(location: str, line: str | None) -> dict[str, Any]:
    try:
        row = parse_json(line or "")
    except ValueError as error:
        raise UserError(f"{location}: expected a JSON object ({error})") from error
    if not isinstance(row, dict):
        raise UserError(f"{location}: expected a JSON object, got {describe_value(row)}")
    for name, kind in _COLUMNS.items():
        if not isinstance(row.get(name), kind) or isinstance(row[name], bool):
            raise UserError(
                f"{location}: expected the column {name!r} as generate writes it, got {describe_value(row.get(name))}"
            )
    if not isinstance(row.get("correct"), bool | None):
        raise UserError(f"{location}: expected true or false as 'correct', got {describe_value(row['correct'])}")
    if isinstance(row["prompt"], list) and not all(isinstance(turn, dict) for turn in row["prompt"]):
        raise UserError(f"{location}: expected messages as 'prompt', got a list of other values")
    return row
