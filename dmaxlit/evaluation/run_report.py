"""The files that a complete evaluation has beside its answers: curves, table and, last, the record."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dmaxlit.data.resumable_jsonl import refusing
from dmaxlit.evaluation.cell_result import CellResult
from dmaxlit.evaluation.report import by_task, results_table, write_curve
from dmaxlit.evaluation.run_folder import RECORD, TABLE
from dmaxlit.files import write_json, write_text


def write_run_report(output: Path, record: dict[str, Any], results: Sequence[CellResult]) -> str:
    """Write curves, table and record to the folder of a run, and return the table.

    Args:
        output: The folder.
        record: The record.
        results: The figures of all cells.

    Raises:
        UserError: If they cannot be written.
    """
    table = results_table(results, [_note(baseline) for baseline in record["baselines"]])
    with refusing(output, "output"):
        for task, own in by_task(results).items():
            write_curve(output / task, task, own, record["model"].get("step"))
        write_text(output / TABLE, table)
        write_json(output / RECORD, record)
    return table


def finished_table(output: Path) -> str | None:
    """Return the table of a complete run, or None."""
    table = output / TABLE
    return table.read_text(encoding="utf-8") if (output / RECORD).is_file() and table.is_file() else None


def _note(baseline: Mapping[str, Any]) -> str:
    """Return what a table says of an autoregressive model."""
    assistant = baseline["assistant"]
    assisted = "" if assistant is None else f", proposals by {assistant['source']}"
    return f"{baseline['title']}: {baseline['model']['source']}, greedy{assisted}, one prompt at a time"
