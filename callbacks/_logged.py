"""Texts, tables and figures in a run's loggers: TensorBoard, Weights & Biases, and files next to the CSV logger's."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_warn
from matplotlib.figure import Figure

from dmaxlit.errors import DMaxWarning
from dmaxlit.evaluation.curve_figure import save_picture
from dmaxlit.evaluation.labels import file_name
from dmaxlit.evaluation.results import csv_text
from dmaxlit.files import write_text


def log_table(trainer: L.Trainer, tag: str, rows: Sequence[Mapping[str, Any]], markdown: str) -> None:
    """Write a table to every logger at the current step, on rank zero only.

    TensorBoard gets Markdown, Weights & Biases a table; the CSV logger's folder gets ``<tag>/step_<n>.csv`` and
    ``.md``.

    Args:
        trainer: The trainer.
        tag: Its name.
        rows: Rows with the same columns, at least one.
        markdown: The same as people read it.
    """
    step, columns = trainer.global_step, list(rows[0])
    rows = [{column: _cell(row[column]) for column in columns} for row in rows]
    for logger in _loggers(trainer):
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text(tag, markdown, global_step=step)
        elif isinstance(logger, WandbLogger):
            logger.log_table(tag, columns, [list(row.values()) for row in rows], step=step)
        elif isinstance(logger, CSVLogger):
            _save(logger, tag, step, ".csv", lambda path: write_text(path, csv_text(rows)))
            _save(logger, tag, step, ".md", lambda path: write_text(path, markdown))


def log_figure(trainer: L.Trainer, tag: str, figure: Figure) -> None:
    """Write a figure to every logger at the current step, on rank zero only: a ``.png`` in the CSV logger's folder.

    In Weights & Biases its name is ``<tag>_picture``: a name holds one kind of values there, and a table may have it.
    """
    step = trainer.global_step
    for logger in _loggers(trainer):
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_figure(tag, figure, global_step=step)
        elif isinstance(logger, WandbLogger):
            logger.log_image(f"{tag}_picture", [figure], step=step)
        elif isinstance(logger, CSVLogger):
            _save(logger, tag, step, ".png", lambda path: save_picture(figure, path))


def _cell(value: Any) -> Any:
    """Return a value that a table of W&B can hold: a dictionary, whose keys differ from row to row, as JSON."""
    return value if value is None or isinstance(value, (str, int, float)) else json.dumps(value)


def _loggers(trainer: L.Trainer) -> Sequence[Any]:
    return trainer.loggers if trainer.is_global_zero else ()


def _save(logger: CSVLogger, tag: str, step: int, suffix: str, write: Callable[[Path], None]) -> None:
    """Write a file into the folder of a CSV log; a full disk does not end the run."""
    if "://" in logger.log_dir:
        return
    path = Path(logger.log_dir, *map(file_name, tag.split("/")), f"step_{step:06d}{suffix}")
    try:
        write(path)
    except OSError as error:
        rank_zero_warn(f"{str(path)!r} cannot be written ({error.strerror or error})", category=DMaxWarning)
