"""The checkpoints of a run: the last ones, from which it resumes when interrupted, and the best."""

import os
import time
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import Checkpoint, WeightAveraging
from lightning.pytorch.utilities import rank_zero_warn

from dmaxlit.callbacks._agreement import agreed
from dmaxlit.callbacks._best_checkpoint import BestCheckpoint
from dmaxlit.callbacks._kept_checkpoints import KeptCheckpoints
from dmaxlit.callbacks._requeue import requeue
from dmaxlit.callbacks._run_content import RunContent
from dmaxlit.callbacks._run_stops import RunStops, agree_to_stop, leave
from dmaxlit.callbacks._save_times import SaveTimes
from dmaxlit.callbacks._stop_signals import Stopped
from dmaxlit.checkpoints.lightning_internals import stops_early, validate_after_last_step
from dmaxlit.checkpoints.run_folder import RunFolder
from dmaxlit.checkpoints.run_limits import is_last_step, limits
from dmaxlit.checkpoints.run_state import log_versions, validation_is_due
from dmaxlit.errors import DMaxWarning, UserError
from dmaxlit.evaluation.first_validation import has_validation, warn_of_late_validation
from dmaxlit.evaluation.validation_batches import is_dry_run
from dmaxlit.files import expanded, refuse_address

__all__ = ["RunCheckpoint"]


class RunCheckpoint(Checkpoint):
    """Saves the run's last two states and its best, and stops it without losing a step.

    ``last.ckpt`` and ``previous.ckpt`` are written after complete optimiser steps: by time or by number of steps, after
    the last step, also where ``max_time``, ``EarlyStopping`` or another callback stops training, and when the process
    receives SIGTERM or Ctrl-C. Then it ends with status 143 or 130; a second Ctrl-C ends it without saving. At SLURM's
    requeue signal (SIGUSR1) it is saved in the same way, and the job is requeued, unless Lightning's
    ``SLURMEnvironment`` has ``auto_requeue`` off. A stop in the middle of an accumulated step waits for its end.
    Checkpoints include what makes a resumed run equal to an uninterrupted one: random generators, metrics not yet
    logged, and whether validation or the end of an epoch follows.

    With ``monitor``, ``best.ckpt`` is the state with the best value of that metric at a validation, and ``best.json``
    says its value and step. Where no decoder has the accuracy that ``decode/best_tpf`` asks for, there is none. A
    resumed run that measures a figure of :class:`~dmaxlit.callbacks.SPDValidation` under other conditions (decoders,
    budget, ``min_accuracy``, prompts) replaces the best one so far at its next validation, with a warning.

    For how long training stops to save is logged as ``checkpoint/stopped_seconds``. With ``async_save`` of
    :class:`~dmaxlit.training.fsdp.FSDP2Strategy` it stops only to copy; a checkpoint becomes the last one at the end of
    a step after it is whole, and the run waits for the one before its end.

    Does nothing under ``fast_dev_run``.

    Args:
        every_minutes: Time between checkpoints; longer if writing them would take more than a twentieth of it. None:
            not by time.
        every_n_steps: Optimiser steps between checkpoints, at least 1; None: not by steps.
        resume: Whether ``dmaxlit fit`` resumes from the last checkpoint of the same run in its folder, if there is one;
            this needs a ``default_root_dir``. Checkpoints of a run with other settings are refused. In Python, name the
            checkpoint: ``trainer.fit(..., ckpt_path="runs/x/checkpoints/last.ckpt")``. A run that goes on from none of
            the folder's checkpoints is refused there. False: start over and replace them.
        folder: Folder of the checkpoints. Default: ``checkpoints/`` in the trainer's ``default_root_dir``, or next to
            the run's logs if that is not set.
        monitor: Tag of a logged metric, such as ``decode/best_tpf`` or ``decode/spd/accuracy`` of
            :class:`~dmaxlit.callbacks.SPDValidation`; None: no best state is kept.
        mode: ``max`` if a higher value of the metric is better, ``min`` if a lower one is.

    Raises:
        UserError: If a setting is out of range; when training starts, if it would replace the checkpoints of another
            run; while training, if a checkpoint cannot be written or the metric is not logged.
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
        self.resume, self.folder, self.monitor = resume, None if folder is None else expanded(folder), monitor
        self.settings: dict[str, Any] = {}
        self.stop_settings: dict[str, Any] = {}
        self.automatic = self.finished = False
        self._trained = self._is_over = False
        self._first_step = self._step = 0
        self._files: RunFolder | None = None  # of the present run; to ask for it, a collective of its own
        self._times = SaveTimes(every_minutes, every_n_steps)
        self._kept = KeptCheckpoints(BestCheckpoint(monitor, mode))
        self._content = RunContent()
        self._stops = RunStops()

    @property
    def best_model_path(self) -> str:
        """Path of the best checkpoint, an empty text for none; Lightning's name, which ``ckpt_path="best"`` reads."""
        return self._kept.best.path

    @best_model_path.setter
    def best_model_path(self, path: str) -> None:
        self._kept.best.path = path  # Lightning sets it after a run in other processes

    # ---- files -------------------------------------------------------------------------------------------------------

    def files(self, trainer: L.Trainer) -> RunFolder:
        """Return the folder of checkpoints, which need not exist yet.

        Raises:
            UserError: If it is not on this machine, as that of the logs may be.
        """
        if self._files is not None:
            return self._files
        folder = self.folder or os.path.join(trainer.log_dir or trainer.default_root_dir, "checkpoints")
        refuse_address(folder, "checkpoint.folder")
        return RunFolder(Path(folder))

    def refusal(self, files: RunFolder, origin: str | Path | None) -> str:
        """Return why a run is refused that would replace checkpoints which it does not go on from; empty if it is not.

        Args:
            files: The run's folder.
            origin: The checkpoint that it goes on from; None for none.
        """
        own = files.path.resolve()  # a scheduler's checkpoint lies in the folder that this one is in
        goes_on = origin is not None and Path(origin).parent.resolve() in (own, own.parent)
        if goes_on or self.automatic or not self.resume or not files.candidates():
            return ""
        return (
            f"ckpt_path: expected a checkpoint in {str(files.path)!r} to go on from, as those there would be replaced, "
            f"got {'none' if origin is None else repr(str(origin))}; `dmaxlit fit` without --ckpt_path goes on from "
            "them, another default_root_dir keeps them, RunCheckpoint(resume=False) or --checkpoint.resume false "
            "replaces them"
        )

    def save(self, trainer: L.Trainer, wait: bool = True) -> None:
        """Write a checkpoint, on all ranks together.

        Args:
            trainer: The trainer.
            wait: Whether to wait until it is whole, where the strategy could write it while training goes on.

        Raises:
            UserError: If it cannot be written; the last one is not touched then.
        """
        begin = time.monotonic()
        self._kept.save(trainer, self.files(trainer), wait)
        self._times.begin(cost=time.monotonic() - begin)

    def where(self) -> str:
        """Describe the last checkpoint written or read, for messages."""
        return self._kept.where()

    def ended_by(self, trainer: L.Trainer, stopped: bool) -> dict[str, Any]:
        """Return the settings that end a run: its limits and, if a callback stopped it, all that may have made it."""
        return {**limits(trainer), **({"stopped": self.stop_settings} if stopped else {})}

    # ---- content of checkpoints --------------------------------------------------------------------------------------

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the run's settings, a fingerprint of its data, and its state."""
        if trainer.training or trainer.validating:
            ended_by = self.ended_by(trainer, True)
            self._content.add(trainer, checkpoint, self.settings, ended_by, self._is_over)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Read that state, to be restored when training starts.

        Raises:
            UserError: If the checkpoint's run was trained on other data.
        """
        if trainer.state.fn == "fit" and self._content.read(trainer, checkpoint, self.automatic):
            self._kept.resume_from(Path(str(trainer.ckpt_path)), checkpoint["global_step"])

    # ---- hooks -------------------------------------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Keep others from the folder of checkpoints, and remove unfinished files of processes that were killed."""
        self._trained = False
        for part in (self._kept, self._content, self._stops):
            part.begin()
        self._files = None
        if stage == "fit" and not is_dry_run(trainer):
            self._files = RunFolder(Path(trainer.strategy.broadcast(str(self.files(trainer).path))))
            if trainer.is_global_zero:
                self._kept.lock(self._files)
                if self.settings and not self.automatic:
                    versions = [version if isinstance(version, int) else None for version in log_versions(trainer)]
                    self.files(trainer).begin(self.settings, versions)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Do not go on with a run that was stopped under the same settings, and killed before it was finished."""
        if self.automatic and self._content.was_ended_by(self.ended_by(trainer, True)):
            trainer.should_stop = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore the state of the checkpoint, and handle signals from here on.

        Raises:
            UserError: If the run would replace the checkpoints of another one.
        """
        if is_dry_run(trainer):
            return
        if self.monitor is not None and not has_validation(trainer):
            rank_zero_warn("checkpoint.monitor: nothing is validated, so no best state is kept", category=DMaxWarning)
        elif self.monitor is not None:
            warn_of_late_validation(trainer, "checkpoint.monitor", "keeps no best state")
        # Before this hook, strategies that restore a checkpoint once the model is shared have not read it.
        is_same_trainer = trainer.ckpt_path is None and trainer.global_step > 0
        refusal = "" if is_same_trainer else self.refusal(self.files(trainer), trainer.ckpt_path)
        if refusal := trainer.strategy.broadcast(refusal):
            leave(trainer, UserError(refusal))
        self._kept.best.begin(trainer, self.files(trainer), self._kept.last)
        self._trained, self._first_step, self._step = True, trainer.global_step, trainer.global_step
        self._times.begin()
        if self._content.unrestored is not None:
            self._content.restore(trainer)
            self._kept.promote_origin(trainer, self.files(trainer))
            self._content.unrestored = None
        if trainer.is_global_zero:
            self.files(trainer).discard_next()
        self._stops.install(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save after a complete step if it is time or the last one, and stop if a signal was received."""
        if is_dry_run(trainer):
            return
        step = trainer.global_step
        self._stops.in_step = step == self._step
        if self._stops.in_step:
            self._stops.postpone(trainer)
            return
        self._step = step
        is_due = trainer.is_global_zero and self._times.is_due(step, self._kept.is_writing)
        is_written = self._kept.is_written(trainer)
        is_stopped, self._stops.postponed = trainer.should_stop or self._stops.postponed, False
        received = int(self._stops.signals.received or 0)
        signal_number, save, stop, written = agreed(trainer, received, is_due, is_stopped, is_written)
        trainer.should_stop = bool(stop)
        final = is_last_step(trainer) or stops_early(trainer)
        if written:
            self._kept.finish_save(trainer)
        if save or final or signal_number:
            self.save(trainer, wait=bool(final or signal_number))
        elif trainer.is_last_batch or validation_is_due(trainer):
            self._content.keep_batch_end(trainer)
        if signal_number:
            self._stops.stop(trainer, signal_number, self._kept.last)
        # The same command repeats what follows the last step, so nothing is lost by stopping at once.
        self._stops.signals.at_once = final and not trainer.is_last_batch

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the best state. Stop on all ranks if one is to stop; in the middle of a step, wait for its end."""
        is_of_fit = trainer.state.fn == "fit" and not trainer.sanity_checking and not is_dry_run(trainer)
        if is_of_fit and self.monitor is not None:
            self._kept.save_best(trainer, self.files(trainer))
        if self._trained and not trainer.sanity_checking:
            agree_to_stop(trainer)
        if self._stops.in_step:
            self._stops.postpone(trainer)

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Stop if a signal was received, in one process: ranks may differ in their number of validation batches."""
        is_alone = trainer.world_size == 1 and not trainer.sanity_checking
        if is_alone and self._stops.signals.received and not self._stops.in_step:
            # Validation is repeated, from the generators it began with.
            if self._kept.saved_step != trainer.global_step:
                for callback in trainer.callbacks:  # type: ignore[attr-defined]
                    if isinstance(callback, WeightAveraging):  # it has swapped the averaged weights in
                        callback.on_validation_epoch_end(trainer, pl_module)
                self._save_step_end(trainer)
            self._stops.stop(trainer, self._stops.signals.received, self._kept.last)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save if the run was stopped in validation or here; then nothing is lost by stopping at once."""
        if self._trained:
            agree_to_stop(trainer)
        if stops_early(trainer):
            self._save_last_step(trainer)
        self._stops.signals.at_once = is_last_step(trainer) or stops_early(trainer)
        if self._stops.signals.at_once and self._stops.signals.received and trainer.world_size == 1:
            self._stops.stop(trainer, self._stops.signals.received, self._kept.last)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record that the run is finished, after all other callbacks."""
        self._save_last_step(trainer)
        if trainer.is_global_zero and not is_dry_run(trainer) and self._kept.saved_step == trainer.global_step:
            stopped = stops_early(trainer)
            self.files(trainer).finish({"step": trainer.global_step, **self.ended_by(trainer, stopped)})
        self._stops.signals.restore()

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Do what follows the last step, if the process that made the step was killed before it could."""
        state = self._content.unrestored
        if not self._trained and state is not None and not is_dry_run(trainer):
            self._kept.best.begin(trainer, self.files(trainer), self._kept.last)
            self._content.restore(trainer)
            self._kept.promote_origin(trainer, self.files(trainer))
            if state["validation_is_due"]:
                validate_after_last_step(trainer)
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                callback.on_train_end(trainer, pl_module)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Restore the previous signal handlers, and let others use the folder."""
        self._stops.signals.restore()
        self._kept.unlock()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Let others use the folder, without a record of a run that was refused; requeue the job if that was asked."""
        if isinstance(exception, UserError) and trainer.is_global_zero and self._files is not None:
            self.files(trainer).forget_begun()
        self._kept.unlock()
        if isinstance(exception, Stopped) and exception.requeue and trainer.is_global_zero:
            requeue()

    # ---- ends --------------------------------------------------------------------------------------------------------

    def _save_last_step(self, trainer: L.Trainer) -> None:
        """Save the last step, unless it is, as if it had been saved before what followed it."""
        self._kept.finish_save(trainer)
        if self._trained and trainer.global_step > max(self._first_step, self._kept.saved_step or 0):
            self._save_step_end(trainer)

    def _save_step_end(self, trainer: L.Trainer) -> None:
        """Save the present step as if it had been saved before what followed it."""
        self._is_over = True
        try:
            self.save(trainer)
        finally:
            self._is_over = False
