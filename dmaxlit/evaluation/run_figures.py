"""The settings and figures of a run, read from its folder: that of ``fit``, or of ``evaluate``."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmaxlit.errors import UserError, reason_of
from dmaxlit.evaluation.record import read_record
from dmaxlit.evaluation.results import DecodeResult
from dmaxlit.evaluation.run_folder import RECORD, flat
from dmaxlit.files import read_json

#: Written by ``ComparisonReport`` into the folder of a training run.
RESULTS = "results.json"
#: Written by ``SPDValidation`` there.
CURVE = "curve.json"


@dataclass(frozen=True)
class RunRow:
    """The figures of one setting of a run.

    Args:
        model: ``trained`` or ``base``, the model that training started from; empty for an evaluation.
        task: The task's label, with the split of its prompts.
        title: The setting's title.
        line: The curve that the setting is a point of.
        threshold: Value of the option that varies along the curve, or None.
        prompts: Hash of the prompts, or None if it is not known.
        result: Accuracy, TPF, speed and rates.
    """

    model: str
    task: str
    title: str
    line: str
    threshold: float | None
    prompts: str | None
    result: DecodeResult


@dataclass(frozen=True)
class RunFigures:
    """A run: what it was made with, and its figures.

    Args:
        name: Its name in tables.
        path: Its folder.
        kind: ``fit`` or ``evaluate``.
        settings: Its settings by dotted names; empty for runs of releases that did not keep them.
        rows: Its figures.
        curve: The points of its accuracy-TPF curves.
        train_seconds: Time spent training, or None.
        peak_memory_mib: Peak memory of its process in MiB, or None.
    """

    name: str
    path: Path
    kind: str
    settings: Mapping[str, Any]
    rows: tuple[RunRow, ...]
    curve: tuple[RunRow, ...]
    train_seconds: float | None = None
    peak_memory_mib: float | None = None


def read_run(folder: Path, name: str) -> RunFigures | None:
    """Read the figures in a folder; return None if it has none.

    Args:
        folder: The folder of a run.
        name: The run's name in tables.

    Raises:
        UserError: If a file of figures cannot be read, or holds something else.
    """
    if (folder / RECORD).is_file():
        return _read(_evaluation, folder, name, folder / RECORD)
    for file in (RESULTS, CURVE):
        if (folder / file).is_file():
            return _read(_training_run, folder, name, folder / file)
    return None


def _read(reader: Any, folder: Path, name: str, path: Path) -> RunFigures:
    try:
        run: RunFigures = reader(folder, name)
        return run
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"runs: expected the figures of a run, got {str(path)!r} ({reason_of(error)})") from error


def _evaluation(folder: Path, name: str) -> RunFigures:
    record = read_record(folder, "runs")
    settings = _evaluation_settings(record)
    split = record["settings"].get("split", "test")
    rows = tuple(
        RunRow(
            model="",
            task=f"{cell['task']}, {split} prompts",
            title=cell["title"],
            line=cell["line"],
            threshold=cell["threshold"],
            prompts=record["tasks"][cell["task"]]["prompts"],
            result=DecodeResult.from_dict(
                {**cell, **cell["timing"], "tpf": cell["tpf"]["dmaxlit"], "tpf_published": cell["tpf"]["published"]}
            ),
        )
        for cell in record["results"]
    )
    return RunFigures(name, folder, "evaluate", settings, rows, rows)


def _evaluation_settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of an evaluation by dotted names: ``model`` is the user's name, ``weights`` the hash."""
    settings = dict(record["settings"])
    weights = settings.pop("model", None)
    return {"model": record["model"]["source"], "weights": weights, **flat(settings)}


def _training_run(folder: Path, name: str) -> RunFigures:
    results = read_json(folder / RESULTS) if (folder / RESULTS).is_file() else {}
    curve = read_json(folder / CURVE) if (folder / CURVE).is_file() else {}
    source = results or curve
    task = (source.get("task") or {}).get("name", "task")
    cost = source.get("cost") or {}

    def figures(values: dict[str, Any], model: str, split: str, prompts: str | None) -> RunRow:
        return RunRow(
            model=model,
            task=f"{task}, {split} prompts",
            title=values["title"],
            line=values["label"],
            threshold=values["threshold"],
            prompts=prompts,
            result=DecodeResult.from_dict(values),
        )

    points = tuple(figures(point, "trained", curve["split"], curve["prompts"]) for point in curve.get("points", []))
    rows = tuple(
        figures({**row, "title": row["label"], "threshold": None}, row["model"], "test", results.get("prompts"))
        for row in results.get("rows", [])
    )
    if not rows and not points:
        raise KeyError("rows")
    return RunFigures(
        name,
        folder,
        "fit",
        {**(source.get("settings") or {}), "steps": source.get("steps")},
        rows or points,
        points or tuple(row for row in rows if row.model == "trained"),
        cost.get("train_seconds"),
        cost.get("peak_memory_mib"),
    )
