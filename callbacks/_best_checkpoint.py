"""Which state of a run is its best, by a logged metric."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn

from dmaxlit.callbacks._decode_tags import BEST_TPF
from dmaxlit.callbacks.spd_validation import SPDValidation
from dmaxlit.checkpoints.run_folder import RunFolder
from dmaxlit.data import SelfDistilledDataModule
from dmaxlit.data.identity import plain_values
from dmaxlit.errors import DMaxWarning, UserError, check_choice
from dmaxlit.evaluation.validation_batches import answer_limits

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
        self._conditions: dict[str, Any] = {}

    def begin(self, trainer: L.Trainer, files: RunFolder, origin: Path | None) -> None:
        """Go on from the best of the run that is resumed; forget that of another run, or of another metric.

        If the metric is measured under other conditions now, the values cannot be compared: the next one takes its
        place, with a warning.

        Args:
            trainer: The trainer, when training starts.
            files: The run's folder.
            origin: The checkpoint that the run goes on from, or None.
        """
        self.record, self.path = None, ""
        self._conditions = _conditions(trainer, self.monitor)
        resumes = origin is not None and origin.parent.resolve() == files.path.resolve()
        if resumes and self.monitor is None:
            return
        stored = files.best_record() if resumes else None
        if stored is not None and (stored.get("monitor"), stored.get("mode")) != (self.monitor, self.mode):
            stored = None
        if stored is None:
            if trainer.is_global_zero:
                files.forget_best()
            return
        self.path = str(files.best)
        if changed := self._changed(stored):
            rank_zero_warn(
                f"checkpoint.monitor: {self.path!r} is replaced at the next validation, as it was chosen under other "
                f"conditions ({', '.join(changed)})",
                category=DMaxWarning,
            )
        else:
            self.record = stored

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
        conditions: dict[str, Any] = {"conditions": self._conditions} if self._conditions else {}
        rule = {"monitor": self.monitor, "mode": self.mode}
        record = {**rule, "value": value, "step": trainer.global_step, **conditions}
        write(trainer, files.next_best, lambda: files.keep_best(record))
        self.record, self.path = record, str(files.best)

    def _changed(self, stored: dict[str, Any]) -> list[str]:
        """Return the conditions that are others than those of a record; older records have none."""
        before, now = stored.get("conditions") or self._conditions, self._conditions
        return [name for name in {**before, **now} if before.get(name) != now.get(name)]

    def _is_better(self, value: float) -> bool:
        if not math.isfinite(value) or (str(self.monitor).endswith(f"/{BEST_TPF}") and value == 0):
            return False
        if self.record is None:
            return True
        best = float(self.record["value"])
        return value > best if self.mode == "max" else value < best


def _conditions(trainer: L.Trainer, monitor: str | None) -> dict[str, Any]:
    """Return what a figure of ``SPDValidation`` depends on beside the weights, as JSON values; none for other tags."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if not isinstance(callback, SPDValidation):
            continue
        is_best_tpf = monitor == f"decode/{BEST_TPF}"
        specs = [spec for spec in callback.decoders if is_best_tpf or str(monitor).startswith(f"decode/{spec.tag}/")]
        if specs:
            limits = answer_limits(callback.max_new_tokens, trainer, trainer.lightning_module)
            data = getattr(trainer, "datamodule", None)
            takes_all = isinstance(trainer.limit_val_batches, float) and trainer.limit_val_batches == 1
            conditions = {
                "decoders": sorted((spec.settings(**vars(limits)).identity() for spec in specs), key=str),
                "min_accuracy": callback.min_accuracy if is_best_tpf else None,
                "num_val": data.num_examples["val"] if isinstance(data, SelfDistilledDataModule) else None,
                "limit_val_batches": str(trainer.limit_val_batches),  # 1 is one batch, 1.0 is all
                "batches": None if takes_all else [getattr(data, "eval_batch_size", None), trainer.world_size],
            }
            return plain_values(conditions)
    return {}
