"""What callbacks show beside numbers: texts and figures in TensorBoard, progress in the terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from tqdm.auto import tqdm

__all__ = ["log_figure", "log_text", "progress_bar"]


def log_text(trainer: L.Trainer, tag: str, text: str) -> None:
    """Write Markdown to every TensorBoard logger, at the present step; nothing on ranks other than zero."""
    for writer in _tensorboards(trainer):
        writer.add_text(tag, text, global_step=trainer.global_step)


def log_figure(trainer: L.Trainer, tag: str, figure: Figure) -> None:
    """Write a figure to every TensorBoard logger, at the present step; nothing on ranks other than zero."""
    for writer in _tensorboards(trainer):
        writer.add_figure(tag, figure, global_step=trainer.global_step)


@contextmanager
def progress_bar(trainer: L.Trainer, total: int, description: str) -> Iterator[Callable[[int], object]]:
    """A bar of its own for long work between the trainer's loops; gives the function that advances it.

    It is drawn on rank zero, unless the trainer was told to draw none. Where the trainer's own bars are on the screen
    (Rich allows one live display at a time), it is one of them.

    Args:
        trainer: The trainer.
        total: Prompts to decode.
        description: What is being done.
    """
    own: Any = trainer.progress_bar_callback
    live = own.progress if isinstance(own, RichProgressBar) else None
    if live is not None and live.live.is_started:
        task = live.add_task(description, total=total)
        try:
            yield lambda done: live.advance(task, done)
        finally:
            live.update(task, visible=False)
        return
    hidden = own is None or not trainer.is_global_zero
    with tqdm(total=total, desc=description, unit="prompt", leave=False, disable=hidden) as bar:
        yield bar.update


def _tensorboards(trainer: L.Trainer) -> Iterator[Any]:
    if trainer.is_global_zero:
        yield from (logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger))
