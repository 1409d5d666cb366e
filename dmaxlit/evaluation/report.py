"""What an evaluation writes for people: a table of each task, its curve as CSV, and its picture."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

from dmaxlit.evaluation.cell_result import CellResult
from dmaxlit.evaluation.curve_figure import curve_figure, save_pictures
from dmaxlit.evaluation.curve_point import CurvePoint
from dmaxlit.evaluation.curves import Curves
from dmaxlit.evaluation.results import aligned_table, csv_text
from dmaxlit.files import write_json, write_text
from dmaxlit.metrics import accuracy_under_parallelism

_HEADER = (
    "",
    "accuracy % [95%]",
    "TPF",
    "TPF without EOS",
    "TPF published",
    "forwards",
    "tokens/s",
    "finished %",
    "AUP",
)


def curves_of(results: Sequence[CellResult]) -> Curves:
    """Return the points of each curve of one task, in the order of the settings."""
    curves = Curves()
    for cell in results:
        curves.setdefault(cell.line, []).append(CurvePoint(cell.threshold, cell.result))
    return curves


def best_accuracy(results: Sequence[CellResult]) -> float:
    """Return the best accuracy of any setting of one task, in percent: the ``y_max`` of AUP."""
    return max(100 * cell.result.accuracy for cell in results)


def aup_of(results: Sequence[CellResult]) -> dict[str, float]:
    """Return the AUP of each curve of one task, discounted by the best accuracy of any setting."""
    y_max = best_accuracy(results) or None
    return {
        line: accuracy_under_parallelism([(p.result.tpf, 100 * p.result.accuracy) for p in points], y_max)
        for line, points in curves_of(results).items()
    }


def by_task(results: Sequence[CellResult]) -> dict[str, list[CellResult]]:
    """Return the results of each task."""
    tasks: dict[str, list[CellResult]] = {}
    for cell in results:
        tasks.setdefault(cell.task, []).append(cell)
    return tasks


def results_table(results: Sequence[CellResult], notes: Sequence[str] = ()) -> str:
    """Format all results as one Markdown table for each task; the AUP of a curve is in its first row.

    Args:
        results: The figures of all cells.
        notes: Lines above each table.
    """
    return "\n".join(_task_table(task, cells, notes) for task, cells in by_task(results).items())


def _task_table(task: str, results: Sequence[CellResult], notes: Sequence[str]) -> str:
    aup, rows, seen = aup_of(results), [], set()
    for cell in results:
        result = cell.result
        low, high = result.accuracy_interval()
        is_first = cell.line not in seen
        seen.add(cell.line)
        rows.append(
            [
                cell.title,
                f"{100 * result.accuracy:.1f} [{100 * low:.1f}, {100 * high:.1f}]",
                f"{cell.tpf['dmaxlit']:.2f}",
                f"{cell.tpf['without_eos']:.2f}",
                f"{cell.tpf['published']:.2f}",
                f"{result.forwards_per_answer:.1f}",
                "" if math.isnan(result.tokens_per_second) else f"{result.tokens_per_second:.0f}",
                f"{100 * result.finished:.1f}",
                f"{aup[cell.line]:.0f}" if is_first else "",
            ]
        )
    prompts, y_max = results[0].result.num_examples, best_accuracy(results)
    above = "".join(f"{note}\n" for note in (f"{prompts} prompts; AUP with y_max {y_max:.1f}%", *notes))
    return f"## {task}\n\n{above}\n{aligned_table(_HEADER, rows)}"


def write_curve(folder: Path, task: str, results: Sequence[CellResult], step: int | None = None) -> None:
    """Write ``curve.json``, ``curve.csv`` and the pictures of one task: ``curve.png``, ``.svg`` and ``.pdf``.

    Args:
        folder: The task's folder.
        task: The task's label, in the picture's title.
        results: The task's results.
        step: Optimiser step of the model's weights, for the title; None if it is not known.
    """
    aup = aup_of(results)
    points = [_point(cell, aup[cell.line]) for cell in results]
    write_json(folder / "curve.json", {"task": task, "steps": step, "y_max": best_accuracy(results), "points": points})
    write_text(folder / "curve.csv", csv_text([{**point, "options": json.dumps(point["options"])} for point in points]))
    title = f"{task}, {results[0].result.num_examples} prompts" + (f", step {step}" if step else "")
    save_pictures(curve_figure(curves_of(results), title), folder / "curve")


def _point(cell: CellResult, aup: float) -> dict[str, object]:
    figures = cell.result.to_dict()
    rules = {f"tpf_{rule}": value for rule, value in cell.tpf.items()}
    named = {"title": cell.title, "line": cell.line, "threshold": cell.threshold}
    return {**named, **figures, **rules, "aup": aup}
