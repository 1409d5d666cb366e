"""Several runs side by side: what differs between their settings, their figures, and their curves."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmaxlit.errors import UserError
from dmaxlit.evaluation.curve_point import CurvePoint
from dmaxlit.evaluation.curves import Curves
from dmaxlit.evaluation.results import csv_text
from dmaxlit.evaluation.run_figures import CURVE, RESULTS, RunFigures, RunRow, read_run
from dmaxlit.evaluation.run_folder import RECORD
from dmaxlit.evaluation.sections import Section
from dmaxlit.metrics import accuracy_under_parallelism

_HEADER = ("run", "setting", "accuracy % [95%]", "TPF [95%]", "AUP", "tokens/s", "decoding s", "training s", "MiB")
_CURVE_HEADER = ("run", "curve", "points", "accuracy %", "TPF", "AUP")
_NO_FIGURES = f"{RESULTS} of ComparisonReport, {CURVE} of SPDValidation or {RECORD} of evaluate"
_LONGEST = 60  # characters of a setting in a table


@dataclass(frozen=True)
class RunComparison:
    """Runs to be compared.

    Args:
        runs: The runs, at least one.
        skipped: Paths without figures.
    """

    runs: Sequence[RunFigures]
    skipped: Sequence[Path] = ()

    def differences(self) -> dict[str, dict[str, Any]]:
        """Return the settings in which runs of the same command differ: by name, the value of each run that has it."""
        differing: dict[str, dict[str, Any]] = {}
        for kind in ("fit", "evaluate"):
            runs = [run for run in self.runs if run.kind == kind]
            for name in dict.fromkeys(name for run in runs for name in run.settings):
                values = {run.name: run.settings[name] for run in runs if name in run.settings}
                if len(values) < len(runs) or any(value != next(iter(values.values())) for value in values.values()):
                    differing.setdefault(name, {}).update(values)
        return differing

    def tasks(self) -> dict[str, list[tuple[RunFigures, RunRow]]]:
        """Return the figures of each task with their runs; a starting model that runs share is listed once."""
        tasks: dict[str, list[tuple[RunFigures, RunRow]]] = {}
        listed = set()
        for run in self.runs:
            for row in run.rows:
                identity = (row.task, row.title, row.prompts, row.result.accuracy, row.result.tpf)
                if row.model == "base" and identity in listed:
                    continue
                listed.add(identity)
                tasks.setdefault(row.task, []).append((run, row))
        return tasks

    def aup(self) -> dict[tuple[str, str, str], float]:
        """Return the AUP of each curve by task, run and line.

        ``y_max`` is the best accuracy of any run of the task, so that curves of different runs can be compared.
        """
        lines: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
        best: dict[str, float] = {}
        for run in self.runs:
            for row in {id(row): row for row in (*run.rows, *run.curve)}.values():
                best[row.task] = max(best.get(row.task, 0.0), 100 * row.result.accuracy)
            for row in run.curve:
                lines.setdefault((row.task, run.name, row.line), []).append((row.result.tpf, 100 * row.result.accuracy))
        return {key: accuracy_under_parallelism(points, best[key[0]] or None) for key, points in lines.items()}

    def curves(self) -> dict[str, Curves]:
        """Return the curves of each task, one for each run and line."""
        tasks: dict[str, Curves] = {}
        for run in self.runs:
            for row in run.curve:
                label = f"{run.name}: {row.line}" if len(self.runs) > 1 else row.line
                point = CurvePoint(row.threshold, row.result)
                tasks.setdefault(row.task, Curves()).setdefault(label, []).append(point)
        return tasks

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the tables, and the curves of each task."""
        tables = [section.html() for section in _sections(self)]
        return "".join([*tables, *(curves._repr_html_() for curves in self.curves().values())])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: the settings that differ, and the settings and figures of each run."""
        aup = self.aup()
        return {
            "differences": self.differences(),
            "runs": [
                {
                    "name": run.name,
                    "path": str(run.path),
                    "kind": run.kind,
                    "settings": dict(run.settings),
                    "train_seconds": run.train_seconds,
                    "peak_memory_mib": run.peak_memory_mib,
                    "rows": [_figures(row) for row in run.rows],
                    "curve": [_figures(row) for row in run.curve],
                    "aup": {f"{task}: {line}": value for (task, name, line), value in aup.items() if name == run.name},
                }
                for run in self.runs
            ],
        }


def read_runs(paths: Sequence[Path]) -> RunComparison:
    """Read the runs in folders; a folder without figures is skipped, unless all are.

    Args:
        paths: Folders of runs, such as ``runs/*``; other files are skipped too.

    Raises:
        UserError: If there is none, a path does not exist, none has figures, or a file of figures is unreadable.
    """
    if not paths:
        raise UserError("runs: expected folders of runs, such as runs/*, got none")
    folders = list({path.resolve(): path for path in paths}.values())
    runs, skipped = [], []
    for path, name in zip(folders, _names(folders), strict=True):
        if not path.exists():
            raise UserError(f"runs: expected folders of runs, got {str(path)!r}, which does not exist")
        run = read_run(path, name) if path.is_dir() else None
        if run is None:
            skipped.append(path)
        else:
            runs.append(run)
    if not runs:
        raise UserError(f"runs: expected a folder with {_NO_FIGURES}, got {', '.join(str(path) for path in folders)}")
    return RunComparison(runs, skipped)


def _names(folders: Sequence[Path]) -> list[str]:
    """Return the names of folders, with as many parents as it takes to tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    depth = 1
    while len({p[-depth:] for p in parts}) < len(parts):
        depth += 1
    return ["/".join(p[-depth:]) for p in parts]


def _figures(row: RunRow) -> dict[str, Any]:
    named = {"model": row.model, "task": row.task, "title": row.title, "line": row.line, "threshold": row.threshold}
    return {**named, "prompts": row.prompts, **row.result.to_dict()}


# ---- tables ----------------------------------------------------------------------------------------------------------


def runs_table(comparison: RunComparison) -> str:
    """Format a comparison as Markdown: the settings that differ, then one table of figures for each task."""
    tables = [section.markdown() for section in _sections(comparison)]
    if len(comparison.runs) > 1 and not comparison.differences():
        tables.insert(0, "The runs' settings do not differ.\n")
    return "\n".join(tables)


def _sections(comparison: RunComparison) -> list[Section]:
    """Return the settings that differ, the figures of each task, and the curves of tasks without other figures."""
    aup, tasks, differing = comparison.aup(), comparison.tasks(), comparison.differences()
    sections = []
    if len(comparison.runs) > 1 and differing:
        header = ["run", *differing]
        settings = [
            [run.name, *(_shown(values[run.name]) if run.name in values else "" for values in differing.values())]
            for run in comparison.runs
        ]
        sections.append(Section("Settings that differ", "", header, settings, len(header)))
    sections += [Section(task, _prompts_line(rows), _HEADER, _rows(task, rows, aup), 2) for task, rows in tasks.items()]
    return sections + [
        Section(f"{task}: curves", "", _CURVE_HEADER, _curve_rows(task, comparison, aup), 2)
        for task in comparison.curves()
        if task not in tasks
    ]


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _prompts_line(rows: Sequence[tuple[RunFigures, RunRow]]) -> str:
    numbers = sorted({row.result.num_examples for _, row in rows})
    hashes = {row.prompts for _, row in rows}
    if len(numbers) > 1 or len(hashes - {None}) > 1:
        return f"The runs were judged on different prompts ({', '.join(map(str, numbers))}): compare with care."
    known = "" if None not in hashes or len({run.name for run, _ in rows}) == 1 else ", not known to be the same"
    return f"{numbers[0]} prompts{known}; AUP with the best accuracy of all runs as y_max"


def _rows(
    task: str, rows: Iterable[tuple[RunFigures, RunRow]], aup: Mapping[tuple[str, str, str], float]
) -> list[list[str]]:
    cells, seen = [], set()
    for run, row in rows:
        result, key = row.result, (task, run.name, row.line)
        value = None
        if row.model != "base":
            value = aup.get(key) if key not in seen else None
            seen.add(key)
        low, high = result.accuracy_interval()
        is_trained = row.model == "trained"
        cells.append(
            [
                run.name,
                f"{row.model}, {row.title}" if row.model else row.title,
                f"{100 * result.accuracy:.1f} [{100 * low:.1f}, {100 * high:.1f}]",
                f"{result.tpf:.2f}" + _bounds(result.tpf_low, result.tpf_high),
                _number(value, 0),
                _number(result.tokens_per_second, 0),
                _number(result.seconds, 1),
                _number(run.train_seconds if is_trained else None, 0),
                _number(run.peak_memory_mib if is_trained else None, 0),
            ]
        )
    return cells


def _curve_rows(task: str, comparison: RunComparison, aup: Mapping[tuple[str, str, str], float]) -> list[list[str]]:
    rows = []
    for (of, name, line), value in aup.items():
        if of == task:
            points = [r.result for run in comparison.runs if run.name == name for r in run.curve if r.line == line]
            accuracies, tpfs = [100 * point.accuracy for point in points], [point.tpf for point in points]
            spans = (f"{min(accuracies):.1f} to {max(accuracies):.1f}", f"{min(tpfs):.2f} to {max(tpfs):.2f}")
            rows.append([name, line, str(len(points)), *spans, f"{value:.0f}"])
    return rows


def _bounds(low: float, high: float) -> str:
    return "" if math.isnan(low) else f" [{low:.2f}, {high:.2f}]"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.{digits}f}"


# ---- data ------------------------------------------------------------------------------------------------------------


def runs_csv(comparison: RunComparison) -> str:
    """Format a comparison as CSV: a row for each run and setting, and ``settings.NAME`` of those that differ."""
    differing, aup = comparison.differences(), comparison.aup()
    rows = []
    for task, figures in comparison.tasks().items():
        for run, row in figures:
            values = _figures(row)
            values["options"] = json.dumps(values["options"])
            rows.append(
                {
                    "run": run.name,
                    **values,
                    "aup": aup.get((task, run.name, row.line)) if row.model != "base" else None,
                    "train_seconds": run.train_seconds,
                    "peak_memory_mib": run.peak_memory_mib,
                    **{f"settings.{name}": differing[name].get(run.name) for name in differing},
                }
            )
    return csv_text(rows)
