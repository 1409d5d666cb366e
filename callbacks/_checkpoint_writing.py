"""Writes checkpoints under temporary names, on all ranks together, and gives each its own once it is whole."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn

from dmaxlit.checkpoints.lightning_internals import log_step
from dmaxlit.errors import DMaxWarning, UserError
from dmaxlit.training.fsdp import FSDP2Strategy

SECONDS_TAG = "checkpoint/stopped_seconds"


@dataclass(frozen=True)
class Writing:
    """A checkpoint that is to be written.

    Args:
        path: The temporary name.
        rename: Gives the checkpoint its own name, on rank zero.
        done: Called on every rank once it has its name.
        advice: Returns the end of the message if it cannot be written.
    """

    path: Path
    rename: Callable[[], None]
    done: Callable[[], None]
    advice: Callable[[], str]


class CheckpointWriter:
    """Writes one checkpoint after another, the last one while training goes on where the strategy can."""

    def __init__(self) -> None:
        self._unfinished: Writing | None = None

    @property
    def is_writing(self) -> bool:
        """Whether a checkpoint has yet to get its name."""
        return self._unfinished is not None

    def is_written(self, trainer: L.Trainer) -> bool:
        """Return whether the checkpoint that is being written is whole; it is known on rank zero."""
        strategy = trainer.strategy
        return self.is_writing and trainer.is_global_zero and isinstance(strategy, FSDP2Strategy) and strategy.is_saved

    def write(self, trainer: L.Trainer, writing: Writing, wait: bool) -> str | None:
        """Write a checkpoint with optimiser and loops, after the one before; every rank must call it.

        Args:
            trainer: The trainer.
            writing: The checkpoint.
            wait: Whether to wait until it is whole, also where it could be written while training goes on.

        Returns:
            Why it, or the one before, could not be written, on every rank; None if it could, as far as is known.
        """
        begin = time.monotonic()
        failure = self.finish(trainer)
        if failure is not None:
            return failure
        _save_logs(trainer)  # up to the checkpoint, so that they are on the disk before it
        try:
            trainer.save_checkpoint(writing.path, False)
        except UserError as error:
            failure = f"{error}; {writing.advice()}"
            trainer.strategy.barrier("Trainer.save_checkpoint")  # the others wait there
        self._unfinished = writing
        if wait or not (isinstance(trainer.strategy, FSDP2Strategy) and trainer.strategy.async_save):
            failure = self.finish(trainer, failure)
        for logger in trainer.loggers:
            logger.log_metrics({SECONDS_TAG: time.monotonic() - begin}, step=log_step(trainer))
        return failure

    def finish(self, trainer: L.Trainer, failure: str | None = None) -> str | None:
        """Wait until the checkpoint that is being written, if any, is whole, and name it; every rank must call it.

        Args:
            trainer: The trainer.
            failure: Why it could not be begun, on this rank.

        Returns:
            Why it could not be written, on every rank; None if it is.
        """
        writing, self._unfinished = self._unfinished, None
        if writing is None:
            return None
        try:
            if isinstance(trainer.strategy, FSDP2Strategy):
                trainer.strategy.finish_save()
        except UserError as error:
            failure = f"{error}; {writing.advice()}"
        if trainer.is_global_zero and failure is None:
            try:
                writing.rename()
            except OSError as error:
                failure = f"checkpoint: cannot rename {str(writing.path)!r} ({error.strerror or error})"
            except UserError as error:
                failure = str(error)
        failure = trainer.strategy.broadcast(failure)
        if failure is None:
            writing.done()
        return failure


def _save_logs(trainer: L.Trainer) -> None:
    """Force the logs to the disk; where they cannot be written, the weights may still be."""
    for logger in trainer.loggers:
        try:
            logger.save()
        except OSError as error:
            rank_zero_warn(f"the log cannot be written ({error.strerror or error})", category=DMaxWarning)
