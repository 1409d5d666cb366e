"""Rows of the benchmarks' tables: which model is decoded how, and the results of decoding it."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dmaxlit.evaluation.evaluate import evaluate
from dmaxlit.files import write_json
from dmaxlit.loading import load
from dmaxlit.tasks.base import requested_examples


@dataclass(frozen=True)
class TableRow:
    """One line of a table.

    Args:
        method: The model: ``base`` or a method of the benchmark.
        label: Name of the decoder in the table.
        decoder: Registered name of the decoder.
        options: The decoder's options.
    """

    method: str
    label: str
    decoder: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Unique name of the row."""
        return f"{self.method} / {self.label}"


def decode_rows(model: str, number: int, rows: Iterable[TableRow], num_examples: int) -> list[dict[str, Any]]:
    """Decode the test prompts of a model's task, once for each row.

    Args:
        model: Folder or name of the model.
        number: Number of the base model, or training seed.
        rows: The rows of this model.
        num_examples: Test prompts to decode.

    Returns:
        One result for each row, as plain values: ``row`` (its key), ``number`` and the figures of the decode.
    """
    module = load(model)
    task = module.task()
    assert task is not None, "benchmarks train models on a task"
    examples = requested_examples(task, "test", num_examples, "num_examples")
    results = []
    for row in rows:
        result = evaluate(module, examples, row.decoder, row.options, task.max_new_tokens, stop=task.stop)
        results.append({"row": row.key, "number": number, **result.to_dict()})
    return results


def kept_decoded_rows(
    path: Path, rows: Sequence[TableRow], model: Callable[[], str], number: int, num_examples: int
) -> list[dict[str, Any]]:
    """Decode those rows of a model that its file lacks, as :func:`decode_rows` does, and add them to it.

    Args:
        path: The file; it is written even if there are no rows.
        rows: The rows of this model.
        model: Returns the model's folder or name; called only if something is missing.
        number: As of :func:`decode_rows`.
        num_examples: Likewise.

    Returns:
        The results of the rows, in order.
    """
    stored = _read(path)
    missing = [row for row in rows if row.key not in stored]
    if missing or not path.is_file():
        stored |= {result["row"]: result for result in decode_rows(model(), number, missing, num_examples)}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, list(stored.values()))
    return [stored[row.key] for row in rows]


def has_decoded_rows(path: Path, rows: Iterable[TableRow]) -> bool:
    """Tell whether the file of :func:`kept_decoded_rows` is there and has these rows."""
    stored = _read(path)
    return path.is_file() and all(row.key in stored for row in rows)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    return {result["row"]: result for result in json.loads(path.read_text(encoding="utf-8"))} if path.is_file() else {}
