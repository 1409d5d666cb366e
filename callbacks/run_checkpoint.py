"""The checkpoints from which an interrupted run resumes."""

import json
import time
from pathlib import Path
from typing import Any, NoReturn

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from dmaxlit.callbacks._stop_signals import Stopped, StopSignals
from dmaxlit.checkpoints.run_folder import RunFolder
from dmaxlit.checkpoints.run_state import finish_batch, restore_run, run_state
from dmaxlit.errors import DMaxWarning, UserError, check_at_least
from dmaxlit.evaluation.validation_batches import is_dry_run
from dmaxlit.files import remove_unfinished

__all__ = ["RunCheckpoint"]

_MAX_TIME_FRACTION = 0.05  # of the run's time that timed checkpoints may take


class RunCheckpoint(Checkpoint):
    """Saves the run's last two states, and stops it without losing a step.

    ``last.ckpt`` and ``previous.ckpt`` are written after complete optimiser steps: by time or by number of steps, after
    the last step, and when the process receives SIGTERM or Ctrl-C. Then it ends with status 143 or 130; a second Ctrl-C
    ends it without saving. They include what makes a resumed run equal to an uninterrupted one: random generators,
    metrics not yet logged, and whether validation or the end of an epoch was to follow.

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

    Raises:
        UserError: If a setting is out of range; while training, if a checkpoint cannot be written.
    """

    def __init__(
        self,
        every_minutes: float | None = 1.0,
        every_n_steps: int | None = None,
        resume: bool = True,
        folder: str | None = None,
    ) -> None:
        super().__init__()
        check_at_least(1, every_n_steps=every_n_steps)
        if every_minutes is not None and not every_minutes >= 0:
            raise UserError(f"every_minutes: expected at least 0, got {every_minutes}")
        self.every_minutes, self.every_n_steps, self.resume, self.folder = every_minutes, every_n_steps, resume, folder
        self.settings: dict[str, Any] = {}
        self.saved_step: int | None = None
        self.automatic = self.finished = False
        self._last: Path | None = None
        self._state: dict[str, Any] | None = None
        self._trained = False
        self._step = 0
        self._saved_at = self._cost = 0.0
        self._signals = StopSignals()

    # ---- files -------------------------------------------------------------------------------------------------------

    def files(self, trainer: L.Trainer) -> RunFolder:
        """Return the folder of checkpoints, which need not exist yet."""
        return RunFolder(Path(self.folder or Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints"))

    @staticmethod
    def limits(trainer: L.Trainer) -> dict[str, Any]:
        """Return the settings that end training."""
        epochs = trainer.max_epochs
        if epochs is None:  # as the trainer sets it when it runs
            epochs = 1000 if trainer.max_steps == -1 else -1
        return {"max_steps": trainer.max_steps, "max_epochs": epochs}

    def save(self, trainer: L.Trainer) -> None:
        """Write a checkpoint, on all ranks together.

        Raises:
            UserError: If it cannot be written; the last one is not touched then.
        """
        for logger in trainer.loggers:
            logger.save()  # logs up to the checkpoint are on the disk before it
        files, begin, failure = self.files(trainer), time.monotonic(), None
        try:
            trainer.save_checkpoint(files.next, False)  # with optimiser and loops
        except UserError as error:
            failure = f"{error}; the last one written is {self.where()}"
            trainer.strategy.barrier("Trainer.save_checkpoint")  # the others wait there
        if trainer.is_global_zero and failure is None:
            try:
                files.promote(self._last)
            except OSError as error:
                failure = f"checkpoint: cannot rename {str(files.next)!r} ({error.strerror or error})"
        failure = trainer.strategy.broadcast(failure)
        if failure is not None:
            self._leave(trainer, UserError(failure))
        self.saved_step, self._last = trainer.global_step, files.last
        self._saved_at = time.monotonic()
        self._cost = self._saved_at - begin

    def where(self) -> str:
        """Describe the last checkpoint written or read, for messages."""
        return "none" if self.saved_step is None else f"{self._last} of step {self.saved_step}"

    # ---- content of checkpoints --------------------------------------------------------------------------------------

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the run's settings, a fingerprint of its data, and its state."""
        if trainer.training or trainer.validating:
            checkpoint["dmaxlit_run"] = {
                "settings": json.dumps(self.settings),
                "data": _fingerprint(trainer),
                **run_state(trainer),
            }

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Read that state, to be restored when training starts.

        Raises:
            UserError: If the checkpoint's run was trained on other data.
        """
        state = checkpoint.get("dmaxlit_run")
        if state is None or trainer.state.fn != "fit":
            return
        if state["data"] != (data := _fingerprint(trainer)):
            differs = f"data: expected the rows {trainer.ckpt_path} was trained on ({state['data']}), got {data}"
            if self.automatic:
                raise UserError(f"{differs}; --checkpoint.resume false starts over")
            rank_zero_warn(differs, category=DMaxWarning)
        self._state = state
        finish_batch(checkpoint["loops"], state)
        self.saved_step, self._last = checkpoint["global_step"], Path(str(trainer.ckpt_path))

    # ---- hooks -------------------------------------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Determine the folder of checkpoints, and remove unfinished files of processes that were killed."""
        self._state, self._trained, self.saved_step, self._last = None, False, None, None
        if stage == "fit" and not is_dry_run(trainer):
            folder = Path(trainer.strategy.broadcast(str(self.files(trainer).path)))
            self.folder = str(folder)
            if trainer.is_global_zero and folder.is_dir():
                remove_unfinished(folder)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore the state of the checkpoint, and handle signals from here on."""
        if is_dry_run(trainer):
            return
        self._trained, self._step = True, trainer.global_step
        self._saved_at, self._cost = time.monotonic(), 0.0
        files = self.files(trainer)
        if self._state is not None:
            restore_run(trainer, self._state)
            if self._last == files.next:  # its process was killed before it could
                if trainer.is_global_zero:
                    files.promote(files.last)
                self._last = files.last
            self._state = None
        if trainer.is_global_zero:
            files.discard_next()
        self._signals = StopSignals()
        self._signals.install()
        if trainer.received_sigterm:  # while the run was being set up
            raise Stopped(143)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save after a complete step if it is time, and stop if a signal was received."""
        step = trainer.global_step
        if step == self._step or is_dry_run(trainer):
            return
        self._step = step
        final = self._is_final(trainer)
        signal_number, save = self._agreed(trainer, int(self._signals.received or 0), self._is_time(step))
        if save or final or signal_number:
            self.save(trainer)
        if signal_number:
            self._stop(trainer, signal_number)
        # The same command repeats what follows the last step, so nothing is lost by stopping at once.
        self._signals.at_once = final and not trainer.is_last_batch

    def on_validation_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        """Stop if a signal was received, in one process: ranks may differ in their number of validation batches."""
        if trainer.world_size == 1 and self._signals.received and not trainer.sanity_checking:
            if self.saved_step != trainer.global_step:
                self.save(trainer)
            self._stop(trainer, self._signals.received)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Allow stopping at once after the last epoch, when nothing is lost by it."""
        self._signals.at_once = self._is_final(trainer)
        if self._signals.at_once and self._signals.received and trainer.world_size == 1:
            self._stop(trainer, self._signals.received)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record that the run is finished, after all other callbacks."""
        if trainer.is_global_zero and not is_dry_run(trainer) and self.saved_step is not None:
            self.files(trainer).finish({"step": trainer.global_step, **self.limits(trainer)})
        self._signals.restore()

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Do what follows the last step, if the process that made the step was killed before it could."""
        if not self._trained and self._state is not None and not is_dry_run(trainer):
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                callback.on_train_end(trainer, pl_module)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Restore the previous signal handlers."""
        self._signals.restore()

    # ---- timing and stopping -----------------------------------------------------------------------------------------

    def _is_time(self, step: int) -> bool:
        by_steps = self.every_n_steps is not None and step % self.every_n_steps == 0
        if by_steps or self.every_minutes is None:
            return by_steps
        return time.monotonic() - self._saved_at >= max(60 * self.every_minutes, self._cost / _MAX_TIME_FRACTION)

    def _is_final(self, trainer: L.Trainer) -> bool:
        epochs = trainer.max_epochs
        last_epoch = epochs is not None and epochs > 0 and trainer.current_epoch + 1 >= epochs and trainer.is_last_batch
        return last_epoch or 0 < trainer.max_steps <= trainer.global_step

    def _agreed(self, trainer: L.Trainer, signal_number: int, save: bool) -> tuple[int, bool]:
        """Agree among all ranks: a signal that any received, and whether it is time by rank zero's clock."""
        if trainer.world_size == 1:
            return signal_number, save
        wanted = torch.tensor(
            [signal_number, int(save and trainer.is_global_zero)], device=trainer.strategy.root_device
        )
        number, saved = trainer.strategy.reduce(wanted, reduce_op="max").tolist()
        return int(number), bool(saved)

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


def _fingerprint(trainer: L.Trainer) -> str:
    """Return the fingerprint of the training rows; empty if the data module has none."""
    fingerprint = getattr(getattr(trainer, "datamodule", None), "fingerprint", None)
    return "" if fingerprint is None else str(fingerprint())
