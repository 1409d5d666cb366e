"""The checkpoints that an interrupted run goes on from."""

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

_SHARE = 0.05  # of the time, at most, goes into checkpoints that come by the clock


class RunCheckpoint(Checkpoint):
    """Keeps the run's last two states, and stops it without losing a step.

    ``last.ckpt`` and ``previous.ckpt`` are written after whole optimiser steps: by the clock or every so many steps,
    after the last step, and when the process gets SIGTERM or Ctrl-C. Then it ends with status 143 or 130; a
    second Ctrl-C ends it without saving. With them travels what makes a resumed run equal an uninterrupted one: random
    generators, metrics not yet logged, and whether validation or the end of an epoch was to follow.

    Does nothing under ``fast_dev_run``.

    Args:
        every_minutes: Time between checkpoints; longer where writing them would take more than a twentieth of it. None:
            not by the clock.
        every_n_steps: Optimiser steps between checkpoints, at least 1; None: not by steps.
        resume: ``fit`` goes on from the last checkpoint of the same run in its folder, if there is one; that takes a
            ``default_root_dir``. Checkpoints of a run with other settings are refused. False: start over, replace them.
        folder: Where. Default: ``checkpoints/`` in the trainer's ``default_root_dir``, or beside the run's logs if
            none was given.

    Raises:
        UserError: For a setting out of range; while training, if a checkpoint cannot be written.
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
        self._told: dict[str, Any] | None = None
        self._trained = False
        self._step = 0
        self._saved_at = self._cost = 0.0
        self._signals = StopSignals()

    # ---- files -------------------------------------------------------------------------------------------------------

    def files(self, trainer: L.Trainer) -> RunFolder:
        """Where checkpoints are, or will be."""
        return RunFolder(Path(self.folder or Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints"))

    @staticmethod
    def limits(trainer: L.Trainer) -> dict[str, Any]:
        """What says when training is over."""
        epochs = trainer.max_epochs
        if epochs is None:  # as the trainer will have it once it runs
            epochs = 1000 if trainer.max_steps == -1 else -1
        return {"max_steps": trainer.max_steps, "max_epochs": epochs}

    def save(self, trainer: L.Trainer) -> None:
        """Write a checkpoint, on all ranks together.

        Raises:
            UserError: If it cannot be written; the last one is still there then.
        """
        for logger in trainer.loggers:
            logger.save()  # what is behind the checkpoint is on the disk before it
        files, begin, failure = self.files(trainer), time.monotonic(), None
        try:
            trainer.save_checkpoint(files.next, False)  # not the weights alone
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
        """The last checkpoint written or read, in words."""
        return "none" if self.saved_step is None else f"{self._last} of step {self.saved_step}"

    # ---- what travels in checkpoints ---------------------------------------------------------------------------------

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the run's settings, its data, and its state beside weights, optimiser and loops."""
        if trainer.training or trainer.validating:
            checkpoint["dmaxlit_run"] = {
                "settings": json.dumps(self.settings),
                "data": _fingerprint(trainer),
                **run_state(trainer),
            }

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Have that state taken over when training starts.

        Raises:
            UserError: If the checkpoint's run was trained on other data.
        """
        told = checkpoint.get("dmaxlit_run")
        if told is None or trainer.state.fn != "fit":
            return
        if told["data"] != (data := _fingerprint(trainer)):
            differs = f"data: expected the rows {trainer.ckpt_path} was trained on ({told['data']}), got {data}"
            if self.automatic:
                raise UserError(f"{differs}; --checkpoint.resume false starts over")
            rank_zero_warn(differs, category=DMaxWarning)
        self._told = told
        finish_batch(checkpoint["loops"], told)
        self.saved_step, self._last = checkpoint["global_step"], Path(str(trainer.ckpt_path))

    # ---- hooks -------------------------------------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Settle where checkpoints go, and clear away what an earlier process was killed over."""
        self._told, self._trained, self.saved_step, self._last = None, False, None, None
        if stage == "fit" and not is_dry_run(trainer):
            folder = Path(trainer.strategy.broadcast(str(self.files(trainer).path)))
            self.folder = str(folder)
            if trainer.is_global_zero and folder.is_dir():
                remove_unfinished(folder)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Go on where the checkpoint was written; from here on signals are ours."""
        if is_dry_run(trainer):
            return
        self._trained, self._step = True, trainer.global_step
        self._saved_at, self._cost = time.monotonic(), 0.0
        files = self.files(trainer)
        if self._told is not None:
            restore_run(trainer, self._told)
            if self._last == files.next:  # its process was ended before it could
                if trainer.is_global_zero:
                    files.promote(files.last)
                self._last = files.last
            self._told = None
        if trainer.is_global_zero:
            files.discard_next()
        self._signals = StopSignals()
        self._signals.install()
        if trainer.received_sigterm:  # while the run was made ready
            raise Stopped(143)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After a whole step: save if it is time, stop if that was asked for."""
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
        # What follows the last step is done again by the same command: nothing is lost by stopping at once.
        self._signals.at_once = final and not trainer.is_last_batch

    def on_validation_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        """Stop if that was asked for, in one process: ranks may differ in their number of validation batches."""
        if trainer.world_size == 1 and self._signals.received and not trainer.sanity_checking:
            if self.saved_step != trainer.global_step:
                self.save(trainer)
            self._stop(trainer, self._signals.received)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """After the last epoch nothing is lost by stopping at once."""
        self._signals.at_once = self._is_final(trainer)
        if self._signals.at_once and self._signals.received and trainer.world_size == 1:
            self._stop(trainer, self._signals.received)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note that the run is finished, after all other callbacks."""
        if trainer.is_global_zero and not is_dry_run(trainer) and self.saved_step is not None:
            told = {"step": trainer.global_step, **self.limits(trainer)}
            self.files(trainer).finish(told)
        self._signals.restore()

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Do what follows the last step, if the process that made the step was ended before it could."""
        if not self._trained and self._told is not None and not is_dry_run(trainer):
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                callback.on_train_end(trainer, pl_module)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give the signals back."""
        self._signals.restore()

    # ---- when, and how it ends ---------------------------------------------------------------------------------------

    def _is_time(self, step: int) -> bool:
        by_steps = self.every_n_steps is not None and step % self.every_n_steps == 0
        if by_steps or self.every_minutes is None:
            return by_steps
        return time.monotonic() - self._saved_at >= max(60 * self.every_minutes, self._cost / _SHARE)

    def _is_final(self, trainer: L.Trainer) -> bool:
        epochs = trainer.max_epochs
        last_epoch = epochs is not None and epochs > 0 and trainer.current_epoch + 1 >= epochs and trainer.is_last_batch
        return last_epoch or 0 < trainer.max_steps <= trainer.global_step

    def _agreed(self, trainer: L.Trainer, signal_number: int, save: bool) -> tuple[int, bool]:
        """The same on all ranks: a signal that any got, and what rank zero's clock says."""
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
        """End on all ranks; only rank zero fails, and says why."""
        raise error if trainer.is_global_zero else Stopped(0)


def _fingerprint(trainer: L.Trainer) -> str:
    """Of the rows trained on; empty if the data module has none."""
    tell = getattr(getattr(trainer, "datamodule", None), "fingerprint", None)
    return "" if tell is None else str(tell())
