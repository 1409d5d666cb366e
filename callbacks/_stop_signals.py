"""SIGTERM, Ctrl-C and SLURM's requeue signal, recorded on arrival and obeyed once nothing is lost."""

import contextlib
import signal
import sys
import threading
from types import FrameType
from typing import Any


class Stopped(SystemExit):
    """Training stopped on request, after saving.

    The process exits with status 128 + the signal's number, as if the signal had ended it: 143 for SIGTERM, 130 for
    Ctrl-C. Ranks other than zero exit with 0, since launchers kill all ranks when one fails.

    Args:
        code: Exit status.
        requeue: Whether SLURM is to start the job again.
    """

    def __init__(self, code: int, requeue: bool = False) -> None:
        super().__init__(code)
        self.requeue = requeue


class StopSignals:
    """Records SIGTERM and SIGINT while it is installed; a second SIGINT interrupts as usual.

    It replaces Lightning's handlers, which stop after a micro-batch, in the middle of an accumulated step, and which
    communicate between ranks inside the handler, possibly during another collective: then all ranks wait for ever.

    Args:
        requeue: Signal after which SLURM is to start the job again, recorded too.
    """

    def __init__(self, requeue: signal.Signals | None = None) -> None:
        self._requeue = requeue
        self.received: signal.Signals | None = None
        self.at_once = False
        self._before: dict[signal.Signals, Any] = {}

    def install(self) -> None:
        """Replace the handlers. Outside of the main thread, do nothing."""
        if threading.current_thread() is threading.main_thread() and not self._before:
            for number in filter(None, (signal.SIGTERM, signal.SIGINT, self._requeue)):
                self._before[number] = signal.signal(number, self._note)

    def restore(self) -> None:
        """Restore the handlers that were replaced."""
        for number, handler in self._before.items():
            with contextlib.suppress(TypeError):  # None: installed from outside Python
                signal.signal(number, handler)
        self._before = {}

    def stopped(self, number: int) -> Stopped:
        """Return what ends the run as a signal of this number asks for."""
        return Stopped(128 + number, requeue=number == self._requeue)

    def _note(self, number: int, frame: FrameType | None) -> None:
        is_repeated = self.received is not None
        self.received = self.received or signal.Signals(number)
        if self.at_once:
            raise self.stopped(number)
        if number == signal.SIGINT:
            if is_repeated:
                raise KeyboardInterrupt
            with contextlib.suppress(OSError, RuntimeError):
                sys.stderr.write("\nstopping after this step; Ctrl-C again stops at once, without saving\n")
