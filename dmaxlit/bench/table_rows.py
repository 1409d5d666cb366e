"""Rows of the benchmarks' tables: which model is decoded how, and the results of decoding it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from dmaxlit.evaluation.evaluate import evaluate
from dmaxlit.loading import load


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
    examples = task.examples("test", num_examples)
    results = []
    for row in rows:
        result = evaluate(module, examples, row.decoder, row.options, max_new_tokens=task.max_new_tokens)
        results.append({"row": row.key, "number": number, **result.to_dict()})
    return results
