"""Which state of a run is its best, by a logged metric."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L

from dmaxlit.callbacks._decode_tags import BEST_TPF
from dmaxlit.checkpoints.run_folder import RunFolder
from dmaxlit.errors import UserError, check_choice

Write = Callable[[L.Trainer, Path, Callable[[], None]], None]

_MODES = ("min", "max")


class BestCheckpoint:
    """The best value of a metric so far, which the run's folder records beside the checkpoint.

    Args:
        monitor: Tag of the metric; None: no checkpoint is the best.
        mode: ``max`` if higher is better, ``min`` if lower is.

    Raises:
        UserError: If only one of them is set, or the mode is another word.
    """

    def __init__(self, monitor: str | None, mode: str | None) -> None:
        if monitor is not None and mode is None:
            raise UserError(f"mode: expected 'min' or 'max' for monitor {monitor!r}, got none")
        if mode is not None:
            check_choice("mode", mode, _MODES)
            if monitor is None:
                raise UserError(f"mode: expected a monitor with {mode!r}, got none")
        self.monitor, self.mode = monitor, mode
        self.path = ""
        self.record: dict[str, Any] | None = None

    def begin(self, files: RunFolder, origin: Path | None, writes: bool) -> None:
        """Go on from the best of the run that is resumed; forget that of another run, or of another metric.

        Args:
            files: The run's folder.
            origin: The checkpoint that the run goes on from, or None.
            writes: Whether this process writes to the folder.
        """
        self.record, self.path = None, ""
        resumes = origin is not None and origin.parent.resolve() == files.path.resolve()
        if resumes and self.monitor is None:
            return
        stored = files.best_record() if resumes else None
        if stored is not None and (stored.get("monitor"), stored.get("mode")) == (self.monitor, self.mode):
            self.record, self.path = stored, str(files.best)
        elif writes:
            files.forget_best()

    def keep(self, trainer: L.Trainer, files: RunFolder, write: Write) -> None:
        """Write a checkpoint if the metric is better than ever; every rank must call it.

        A value that is not finite is never the best, nor is a ``best_tpf`` of 0, with which no decoder was accurate
        enough.

        Args:
            trainer: The trainer.
            files: The run's folder.
            write: Writes a checkpoint to a temporary path, and calls the function that gives it its own.

        Raises:
            UserError: If the metric is not logged; the message names those that are.
        """
        metrics = trainer.callback_metrics
        if self.monitor not in metrics:
            logged = ", ".join(sorted(metrics)) or "nothing"
            raise UserError(f"checkpoint.monitor: expected a logged metric, got {self.monitor!r}; logged: {logged}")
        value = float(metrics[self.monitor])
        if not trainer.strategy.broadcast(self._is_better(value)):
            return
        record = {"monitor": self.monitor, "mode": self.mode, "value": value, "step": trainer.global_step}
        write(trainer, files.next_best, lambda: files.keep_best(record))
        self.record, self.path = record, str(files.best)

    def _is_better(self, value: float) -> bool:
        if not math.isfinite(value) or (str(self.monitor).endswith(f"/{BEST_TPF}") and value == 0):
            return False
        if self.record is None:
            return True
        best = float(self.record["value"])
        return value > best if self.mode == "max" else value < best
