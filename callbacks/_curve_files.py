"""The accuracy-TPF curve of a run in its folder: as data and as pictures, whatever the logger."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn
from matplotlib.figure import Figure

from dmaxlit.data.identity import prompts_hash
from dmaxlit.errors import DMaxWarning
from dmaxlit.evaluation.curve_figure import curve_figure, curve_table, save_pictures
from dmaxlit.evaluation.curve_point import CurvePoint
from dmaxlit.evaluation.hyperparameters import hyperparameters_of
from dmaxlit.evaluation.results import csv_text
from dmaxlit.files import write_json, write_text
from dmaxlit.metrics import accuracy_under_parallelism
from dmaxlit.tasks import Example

Curves = Mapping[str, Sequence[CurvePoint]]


def draw_curve(module: Any, curves: Curves, split: str) -> Figure:
    """Draw a curve under a title that says task, prompts, and the step of the weights."""
    step, num_prompts = module.weights_step(), next(iter(curves.values()))[0].result.num_examples
    task = f"{module.task_name}, " if module.task_name else ""
    return curve_figure(curves, f"{task}{num_prompts} {split} prompts" + (f", step {step}" if step else ""))


def write_curve_files(
    trainer: L.Trainer, module: Any, curves: Curves, split: str, examples: Sequence[Example], path: Path
) -> None:
    """Write the files ``path`` with the suffixes ``.json``, ``.csv``, ``.png``, ``.svg`` and ``.pdf``; on rank zero.

    Args:
        trainer: The trainer.
        module: The model.
        curves: The points of each decoder, by its label.
        split: ``validation`` or ``test``.
        examples: This rank's prompts.
        path: Path of the files, without a suffix.
    """
    points = curve_table(curves)
    y_max = max(100 * point.result.accuracy for line in curves.values() for point in line)
    payload = {
        "task": module.metadata()["task"],
        "split": split,
        "steps": module.weights_step(),
        "settings": hyperparameters_of(trainer, module),
        "num_prompts": next(iter(curves.values()))[0].result.num_examples,
        # Of several ranks none knows all prompts.
        "prompts": prompts_hash([example.prompt for example in examples]) if trainer.world_size == 1 else None,
        "y_max": y_max,
        "aup": {label: _aup(line, y_max) for label, line in curves.items()},
        "points": points,
    }
    try:
        write_json(path.with_name(f"{path.name}.json"), payload)
        rows = [{**point, "options": json.dumps(point["options"])} for point in points]
        write_text(path.with_name(f"{path.name}.csv"), csv_text(rows))
        save_pictures(draw_curve(module, curves, split), path)
    except OSError as error:
        message = f"the curve cannot be written to {str(path.parent)!r} ({error.strerror or error})"
        rank_zero_warn(message, category=DMaxWarning)


def _aup(line: Sequence[CurvePoint], y_max: float) -> float | None:
    points = [(point.result.tpf, 100 * point.result.accuracy) for point in line]
    value = accuracy_under_parallelism(points, y_max or None)
    return None if math.isnan(value) else value
