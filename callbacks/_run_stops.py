"""How a run stops: after a complete optimiser step, and on all ranks together."""

import signal
from pathlib import Path
from typing import NoReturn

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from dmaxlit.callbacks._agreement import agreed
from dmaxlit.callbacks._stop_signals import Stopped, StopSignals
from dmaxlit.checkpoints.lightning_internals import requeue_signal


class RunStops:
    """Signals and requests to stop that have yet to be obeyed."""

    def __init__(self) -> None:
        self.signals = StopSignals()
        self.in_step = self.postponed = False

    def begin(self) -> None:
        """Forget those of an earlier use of the trainer."""
        self.in_step = self.postponed = False

    def install(self, trainer: L.Trainer) -> None:
        """Record signals from here on.

        Raises:
            Stopped: If SIGTERM came while the run was being set up.
        """
        self.signals = StopSignals(requeue_signal(trainer))
        self.signals.install()
        if trainer.received_sigterm:
            raise Stopped(143)

    def postpone(self, trainer: L.Trainer) -> None:
        """Withdraw a request to stop until the step is complete, so that no gradient is lost."""
        self.postponed, trainer.should_stop = self.postponed or trainer.should_stop, False

    def stop(self, trainer: L.Trainer, number: int, last: Path | None) -> NoReturn:
        """End the run on all ranks, as a signal of this number asks for.

        Args:
            trainer: The trainer.
            number: The signal's.
            last: The last checkpoint, for the message.
        """
        name = {signal.SIGINT: "Ctrl-C"}.get(signal.Signals(number), signal.Signals(number).name)
        rank_zero_info(f"stopped by {name} after step {trainer.global_step}; the same command goes on from {last}")
        leave(trainer, self.signals.stopped(number))


def agree_to_stop(trainer: L.Trainer) -> None:
    """Stop on all ranks if one is to stop; every rank must call it."""
    (stop,) = agreed(trainer, trainer.should_stop)
    trainer.should_stop = bool(stop)


def leave(trainer: L.Trainer, error: BaseException) -> NoReturn:
    """End on all ranks; only rank zero reports the error."""
    raise error if trainer.is_global_zero else Stopped(0)
