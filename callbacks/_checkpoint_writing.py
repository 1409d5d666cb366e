"""Writes a checkpoint under a temporary name, on all ranks together, and gives it its own."""

from collections.abc import Callable
from pathlib import Path

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn

from dmaxlit.errors import DMaxWarning, UserError


def write_checkpoint(trainer: L.Trainer, path: Path, rename: Callable[[], None], advice: str) -> str | None:
    """Write a checkpoint with optimiser and loops; every rank must call it.

    Args:
        trainer: The trainer.
        path: The temporary name.
        rename: Gives the checkpoint its own name, on rank zero.
        advice: End of the message if it cannot be written.

    Returns:
        Why it could not be written, on every rank; None if it is.
    """
    _save_logs(trainer)  # up to the checkpoint, so that they are on the disk before it
    failure = None
    try:
        trainer.save_checkpoint(path, False)
    except UserError as error:
        failure = f"{error}; {advice}"
        trainer.strategy.barrier("Trainer.save_checkpoint")  # the others wait there
    if trainer.is_global_zero and failure is None:
        try:
            rename()
        except OSError as error:
            failure = f"checkpoint: cannot rename {str(path)!r} ({error.strerror or error})"
        except UserError as error:
            failure = str(error)
    return trainer.strategy.broadcast(failure)


def _save_logs(trainer: L.Trainer) -> None:
    """Force the logs to the disk; where they cannot be written, the weights may still be."""
    for logger in trainer.loggers:
        try:
            logger.save()
        except OSError as error:
            rank_zero_warn(f"the log cannot be written ({error.strerror or error})", category=DMaxWarning)
