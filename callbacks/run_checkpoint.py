"""The checkpoints of a run: the last ones, from which it resumes when interrupted, and the best."""

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, NoReturn

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from dmaxlit.callbacks._agreement import agreed
from dmaxlit.callbacks._best_checkpoint import BestCheckpoint
from dmaxlit.callbacks._checkpoint_writing import CheckpointWriter, Writing
from dmaxlit.callbacks._save_times import SaveTimes
from dmaxlit.callbacks._stop_signals import Stopped, StopSignals
from dmaxlit.checkpoints.lightning_internals import reopen_epoch, stops_early, validate_after_last_step
from dmaxlit.checkpoints.run_folder import RunFolder
from dmaxlit.checkpoints.run_limits import is_last_step, keep_patience, limits
from dmaxlit.checkpoints.run_state import (
    as_of,
    batch_end,
    fingerprint,
    finish_batch,
    log_versions,
    recount_batches,
    restore_run,
    run_state,
    validation_is_due,
)
from dmaxlit.errors import DMaxWarning, UserError
from dmaxlit.evaluation.validation_batches import is_dry_run
from dmaxlit.files import remove_unfinished
from dmaxlit.locks import exclusive_folder

__all__ = ["RunCheckpoint"]


class RunCheckpoint(Checkpoint):
    """Saves the run's last two states and its best, and stops it without losing a step.

    ``last.ckpt`` and ``previous.ckpt`` are written after complete optimiser steps: by time or by number of steps, after
    the last step, also where ``max_time``, ``EarlyStopping`` or another callback stops training, and when the process
    receives SIGTERM or Ctrl-C. Then it ends with status 143 or 130; a second Ctrl-C ends it without saving. A stop in
    the middle of an accumulated step waits for its end. Checkpoints include what makes a resumed run equal to an
    uninterrupted one: random generators, metrics not yet logged, and whether validation or the end of an epoch follows.

    With ``monitor``, ``best.ckpt`` is the state with the best value of that metric at a validation, and ``best.json``
    says its value and step. Where no decoder has the accuracy that ``decode/best_tpf`` asks for, there is none.

    For how long training stops to save is logged as ``checkpoint/stopped_seconds``. With ``async_save`` of
    :class:`~dmaxlit.training.fsdp.FSDP2Strategy` it stops only to copy; a checkpoint becomes the last one at the end of
    a step after it is whole, and the run waits for the one before its end.

    Does nothing under ``fast_dev_run``.

    Args:
        every_minutes: Time between checkpoints; longer if writing them would take more than a twentieth of it. None:
            not by time.
        every_n_steps: Optimiser steps between checkpoints, at least 1; None: not by steps.
        resume: Whether ``fit`` resumes from the last checkpoint of the same run in its folder, if there is one; this
            needs a ``default_root_dir``. Checkpoints of a run with other settings are refused. False: start over and
            replace them.
        folder: Folder of the checkpoints. Default: ``checkpoints/`` in the trainer's ``default_root_dir``, or next to
            the run's logs if that is not set.
        monitor: Tag of a logged metric, such as ``decode/best_tpf`` or ``decode/spd/accuracy`` of
            :class:`~dmaxlit.callbacks.SPDValidation`; None: no best state is kept.
        mode: ``max`` if a higher value of the metric is better, ``min`` if a lower one is.

    Raises:
        UserError: If a setting is out of range; while training, if a checkpoint cannot be written or the metric is not
            logged.
    """

    def __init__(
        self,
        every_minutes: float | None = 1.0,
        every_n_steps: int | None = None,
        resume: bool = True,
        folder: str | None = None,
        monitor: str | None = None,
        mode: Literal["min", "max"] | None = None,
    ) -> None:
        super().__init__()
        self.resume, self.folder, self.monitor = resume, folder, monitor
        self.settings: dict[str, Any] = {}
        self.stop_settings: dict[str, Any] = {}
        self.saved_step: int | None = None
        self.automatic = self.finished = False
        self._last: Path | None = None
        self._state: dict[str, Any] | None = None
        self._batch_end: dict[str, Any] | None = None
        self._trained = self._in_step = self._stop_postponed = self._is_over = False
        self._first_step = self._step = 0
        self._times = SaveTimes(every_minutes, every_n_steps)
        self._best = BestCheckpoint(monitor, mode)
        self._writer = CheckpointWriter()
        self._signals = StopSignals()
        self._lock = ExitStack()

    @property
    def best_model_path(self) -> str:
        """Path of the best checkpoint, an empty text for none; Lightning's name, which ``ckpt_path="best"`` reads."""
        return self._best.path

    @best_model_path.setter
    def best_model_path(self, path: str) -> None:
        self._best.path = path  # Lightning sets it after a run in other processes

    # ---- files -------------------------------------------------------------------------------------------------------

    def files(self, trainer: L.Trainer) -> RunFolder:
        """Return the folder of checkpoints, which need not exist yet."""
        return RunFolder(Path(self.folder or Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints"))

    def save(self, trainer: L.Trainer, wait: bool = True) -> None:
        """Write a checkpoint, on all ranks together.

        Args:
            trainer: The trainer.
            wait: Whether to wait until it is whole, where the strategy could write it while training goes on.

        Raises:
            UserError: If it cannot be written; the last one is not touched then.
        """
        files, step, begin = self.files(trainer), trainer.global_step, time.monotonic()

        def done() -> None:
            self.saved_step, self._last = step, files.last

        self._write(trainer, files.next, lambda: files.promote(self._last), done, wait)
        self._times.begin(cost=time.monotonic() - begin)

    def _write(
        self,
        trainer: L.Trainer,
        path: Path,
        rename: Callable[[], None],
        done: Callable[[], None] = lambda: None,
        wait: bool = False,
    ) -> None:
        writing = Writing(path, rename, done, lambda: f"the last one written is {self.where()}")
        if failure := self._writer.write(trainer, writing, wait):
            self._leave(trainer, UserError(failure))

    def _finish_save(self, trainer: L.Trainer) -> None:
        if failure := self._writer.finish(trainer):
            self._leave(trainer, UserError(failure))

    def where(self) -> str:
        """Describe the last checkpoint written or read, for messages."""
        return "none" if self.saved_step is None else f"{self._last} of step {self.saved_step}"

    def ended_by(self, trainer: L.Trainer, stopped: bool) -> dict[str, Any]:
        """Return the settings that end a run: its limits and, if a callback stopped it, all that may have made it."""
        return {**limits(trainer), **({"stopped": self.stop_settings} if stopped else {})}

    # ---- content of checkpoints --------------------------------------------------------------------------------------

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the run's settings, a fingerprint of its data, and its state."""
        if trainer.training or trainer.validating:
            checkpoint["dmaxlit_run"] = {
                "settings": json.dumps(self.settings),
                "data": fingerprint(trainer),
                "ended_by": json.dumps(self.ended_by(trainer, True)) if stops_early(trainer) else "",
                **run_state(trainer),
            }
            if self._is_over and self._batch_end and self._batch_end["global_step"] == trainer.global_step:
                as_of(checkpoint, self._batch_end)
            elif self._is_over and not trainer.is_last_batch:
                reopen_epoch(checkpoint["loops"])

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Read that state, to be restored when training starts.

        Raises:
            UserError: If the checkpoint's run was trained on other data.
        """
        state = checkpoint.get("dmaxlit_run")
        if state is None or trainer.state.fn != "fit":
            return
        if state["data"] != (data := fingerprint(trainer)):
            differs = f"data: expected the rows {trainer.ckpt_path} was trained on ({state['data']}), got {data}"
            if self.automatic:
                raise UserError(f"{differs}; --checkpoint.resume false starts over")
            rank_zero_warn(differs, category=DMaxWarning)
        self._state = state
        recount_batches(trainer, checkpoint["loops"], state)
        finish_batch(checkpoint["loops"], state)
        keep_patience(trainer, checkpoint)
        self.saved_step, self._last = checkpoint["global_step"], Path(str(trainer.ckpt_path))

    # ---- hooks -------------------------------------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Keep others from the folder of checkpoints, and remove unfinished files of processes that were killed."""
        self._state, self._trained, self.saved_step, self._last = None, False, None, None
        self._batch_end, self._in_step, self._stop_postponed = None, False, False
        self._writer = CheckpointWriter()
        if stage == "fit" and not is_dry_run(trainer):
            folder = Path(trainer.strategy.broadcast(str(self.files(trainer).path)))
            self.folder = str(folder)
            if trainer.is_global_zero:
                self._lock.enter_context(exclusive_folder(folder, "checkpoint"))
                remove_unfinished(folder)
                if self.settings and not self.automatic:
                    versions = [version if isinstance(version, int) else None for version in log_versions(trainer)]
                    self.files(trainer).begin(self.settings, versions)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Do not go on with a run that was stopped under the same settings, and killed before it was finished."""
        if not is_dry_run(trainer):
            self._best.begin(self.files(trainer), self._last, trainer.is_global_zero)
        ended_by = (self._state or {}).get("ended_by") if self.automatic else None
        if ended_by and json.loads(ended_by) == self.ended_by(trainer, True):
            trainer.should_stop = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore the state of the checkpoint, and handle signals from here on."""
        if is_dry_run(trainer):
            return
        self._trained, self._first_step, self._step = True, trainer.global_step, trainer.global_step
        self._times.begin()
        if self._state is not None:
            restore_run(trainer, self._state)
            self._promote_origin(trainer)
            self._state = None
        if trainer.is_global_zero:
            self.files(trainer).discard_next()
        self._signals = StopSignals()
        self._signals.install()
        if trainer.received_sigterm:  # while the run was being set up
            raise Stopped(143)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save after a complete step if it is time or the last one, and stop if a signal was received."""
        if is_dry_run(trainer):
            return
        step = trainer.global_step
        self._in_step = step == self._step
        if self._in_step:
            self._postpone_stop(trainer)
            return
        self._step = step
        is_due = trainer.is_global_zero and self._times.is_due(step, self._writer.is_writing)
        is_written = self._writer.is_written(trainer)
        is_stopped, self._stop_postponed = trainer.should_stop or self._stop_postponed, False
        received = int(self._signals.received or 0)
        signal_number, save, stop, written = agreed(trainer, received, is_due, is_stopped, is_written)
        trainer.should_stop = bool(stop)
        final = is_last_step(trainer) or stops_early(trainer)
        if written:
            self._finish_save(trainer)
        if save or final or signal_number:
            self.save(trainer, wait=bool(final or signal_number))
        elif trainer.is_last_batch or validation_is_due(trainer):
            self._batch_end = batch_end(trainer)
        if signal_number:
            self._stop(trainer, signal_number)
        # The same command repeats what follows the last step, so nothing is lost by stopping at once.
        self._signals.at_once = final and not trainer.is_last_batch

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the best state. Stop on all ranks if one is to stop; in the middle of a step, wait for its end."""
        is_of_fit = trainer.state.fn == "fit" and not trainer.sanity_checking and not is_dry_run(trainer)
        if is_of_fit and self.monitor is not None:
            try:
                self._best.keep(trainer, self.files(trainer), self._write)
            except UserError as error:
                self._leave(trainer, error)
        if self._trained and not trainer.sanity_checking:
            (stop,) = agreed(trainer, trainer.should_stop)
            trainer.should_stop = bool(stop)
        if self._in_step:
            self._postpone_stop(trainer)

    def on_validation_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        """Stop if a signal was received, in one process: ranks may differ in their number of validation batches."""
        is_alone = trainer.world_size == 1 and not trainer.sanity_checking
        if is_alone and self._signals.received and not self._in_step:
            if self.saved_step != trainer.global_step:  # validation is repeated, from the generators it began with
                self._save_step_end(trainer)
            self._stop(trainer, self._signals.received)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save if the run was stopped in validation or here; then nothing is lost by stopping at once."""
        if self._trained:
            (stop,) = agreed(trainer, trainer.should_stop)
            trainer.should_stop = bool(stop)
        if stops_early(trainer):
            self._save_last_step(trainer)
        self._signals.at_once = is_last_step(trainer) or stops_early(trainer)
        if self._signals.at_once and self._signals.received and trainer.world_size == 1:
            self._stop(trainer, self._signals.received)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record that the run is finished, after all other callbacks."""
        self._save_last_step(trainer)
        if trainer.is_global_zero and not is_dry_run(trainer) and self.saved_step == trainer.global_step:
            stopped = stops_early(trainer)
            self.files(trainer).finish({"step": trainer.global_step, **self.ended_by(trainer, stopped)})
        self._signals.restore()

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Do what follows the last step, if the process that made the step was killed before it could."""
        if not self._trained and self._state is not None and not is_dry_run(trainer):
            restore_run(trainer, self._state)
            self._promote_origin(trainer)
            if self._state["validation_is_due"]:
                validate_after_last_step(trainer)
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                callback.on_train_end(trainer, pl_module)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Restore the previous signal handlers, and let others use the folder."""
        self._signals.restore()
        self._lock.close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Let others use the folder, without a record of a run that was refused."""
        if isinstance(exception, UserError) and trainer.is_global_zero and self.folder is not None:
            self.files(trainer).forget_begun()
        self._lock.close()

    # ---- ends --------------------------------------------------------------------------------------------------------

    def _save_last_step(self, trainer: L.Trainer) -> None:
        """Save the last step, unless it is, as if it had been saved before what followed it."""
        self._finish_save(trainer)
        if self._trained and trainer.global_step > max(self._first_step, self.saved_step or 0):
            self._save_step_end(trainer)

    def _save_step_end(self, trainer: L.Trainer) -> None:
        """Save the present step as if it had been saved before what followed it."""
        self._is_over = True
        try:
            self.save(trainer)
        finally:
            self._is_over = False

    def _promote_origin(self, trainer: L.Trainer) -> None:
        """Give the checkpoint resumed from its name, if its process was killed before it could."""
        files = self.files(trainer)
        if self._last == files.next:
            if trainer.is_global_zero:
                files.promote(files.last)
            self._last = files.last

    def _postpone_stop(self, trainer: L.Trainer) -> None:
        """Withdraw a request to stop until the step is complete, so that no gradient is lost."""
        self._stop_postponed, trainer.should_stop = self._stop_postponed or trainer.should_stop, False

    def _stop(self, trainer: L.Trainer, number: int) -> NoReturn:
        name = {15: "SIGTERM", 2: "Ctrl-C"}.get(number, f"signal {number}")
        rank_zero_info(
            f"stopped by {name} after step {trainer.global_step}; the same command goes on from {self._last}"
        )
        self._leave(trainer, Stopped(128 + number))

    @staticmethod
    def _leave(trainer: L.Trainer, error: BaseException) -> NoReturn:
        """End on all ranks; only rank zero reports the error."""
        raise error if trainer.is_global_zero else Stopped(0)
