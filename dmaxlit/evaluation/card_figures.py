"""The figures of a model card, from the files of a run or of an evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from dmaxlit.backbone.formats.judged import check_figures
from dmaxlit.errors import DMaxWarning, UserError
from dmaxlit.evaluation.record import FORMAT
from dmaxlit.evaluation.results import DecodeResult
from dmaxlit.evaluation.run_figures import RESULTS
from dmaxlit.evaluation.run_folder import RECORD
from dmaxlit.files import read_json
from dmaxlit.weights_hash import weights_hash

_FIGURES = ("num_examples", "accuracy", "accuracy_low", "accuracy_high", "tpf")
_SPLITS = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class CardFigures:
    """Figures with what is known of the model that they are of.

    Args:
        figures: What a card shows: ``task``, ``command``, ``split`` and ``rows``.
        path: Where they are from.
        weights: Hash of the model's weights; None if it is not known.
        dtype: Type of these weights.
    """

    figures: dict[str, Any]
    path: Path
    weights: str | None = None
    dtype: str | None = None

    def check_model(self, module: Any) -> None:
        """Refuse figures of another model; warn if that cannot be known because its weights had another type.

        Raises:
            UserError: If the weights differ.
        """
        if self.weights is None:
            return
        dtype = str(next(module.backbone.model.parameters()).dtype).removeprefix("torch.")
        source = repr(str(self.path))
        if dtype != self.dtype:
            rank_zero_warn(
                f"results: {source} has figures of weights in {self.dtype}, the export has {dtype}: whether they are "
                "of the same model is not checked",
                category=DMaxWarning,
            )
        elif weights_hash(module) != self.weights:
            raise UserError(f"results: expected figures of the exported model, got those of other weights in {source}")


def figures_of(result: DecodeResult) -> dict[str, Any]:
    """Return what a card shows of a result."""
    values = result.to_dict()
    return {name: values[name] for name in _FIGURES}


def read_figures(path: Path) -> CardFigures:
    """Return the figures of the trained model of a run, or of the model that was evaluated.

    Args:
        path: ``results.json`` of a run, ``record.json`` of an evaluation, or the folder with it.

    Raises:
        UserError: If it is missing, or something else.
    """
    if path.is_dir():
        files = [path / name for name in (RESULTS, RECORD) if (path / name).is_file()]
        if not files:
            raise UserError(f"results: expected a folder with {RESULTS} or {RECORD}, got {str(path)!r}")
        path = files[0]
    report = read_json(path)
    try:
        found = _of_evaluation(report, path) if report.get("format") == FORMAT else _of_run(report, path)
        check_figures(found.figures, f"results: {path}")
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"results: expected the {RESULTS} of a run or the {RECORD} of an evaluation, got {str(path)!r} without "
            f"{error}"
        ) from error
    if not found.figures["rows"]:
        raise UserError(f"results: expected figures of a trained model, got none in {str(path)!r}")
    return found


def _of_run(report: Mapping[str, Any], path: Path) -> CardFigures:
    rows = [_row(row["label"], row, row["tpf"]) for row in report["rows"] if row["model"] == "trained"]
    task = report.get("task") or {}
    return CardFigures({"task": task.get("name", ""), "command": report.get("command") or "", "rows": rows}, path)


def _of_evaluation(record: Mapping[str, Any], path: Path) -> CardFigures:
    """Return the figures of all tasks, without those of the autoregressive models that were compared with."""
    tasks, others = list(record["tasks"]), {baseline["title"] for baseline in record["baselines"]}
    rows = [
        _row(cell["title"] if len(tasks) == 1 else f"{cell['task']}: {cell['title']}", cell, cell["tpf"]["dmaxlit"])
        for cell in record["results"]
        if cell["title"] not in others
    ]
    figures = {
        "task": ", ".join(tasks),
        "command": record.get("command") or "",
        "split": _SPLITS[record["settings"]["split"]],
        "rows": rows,
    }
    return CardFigures(figures, path, record["model"]["weights_sha256"], record["model"]["dtype"])


def _row(label: str, figures: Mapping[str, Any], tpf: float) -> dict[str, Any]:
    return {"label": label, **{name: figures[name] for name in _FIGURES if name != "tpf"}, "tpf": tpf}
