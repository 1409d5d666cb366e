"""SIGTERM and Ctrl-C, noted and obeyed where nothing is lost."""

import contextlib
import signal
import sys
import threading
from types import FrameType
from typing import Any

__all__ = ["StopSignals", "Stopped"]


class Stopped(SystemExit):
    """Training was asked to stop, and did after saving.

    The process ends with status 128 + the signal's number, as if the signal had ended it: 143 for SIGTERM, 130 for
    Ctrl-C. Ranks other than zero end with 0, since launchers kill the others where a rank fails.
    """


class StopSignals:
    """Notes SIGTERM and SIGINT while it is installed; a second SIGINT interrupts as usual.

    Lightning has handlers of its own. They stop after a micro-batch, in the middle of an accumulated step, and with
    several ranks communicate inside the handler, while another communication may be going on. SLURM's requeue signal
    is not touched.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.at_once = False
        self._before: dict[signal.Signals, Any] = {}

    def install(self) -> None:
        """Take the signals over, in the main thread; elsewhere nothing."""
        if threading.current_thread() is threading.main_thread() and not self._before:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)

    def restore(self) -> None:
        """Give them back to whoever had them."""
        for number, handler in self._before.items():
            with contextlib.suppress(TypeError):  # None: installed from outside Python
                signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        again = self.received is not None
        self.received = self.received or signal.Signals(number)
        if self.at_once:
            raise Stopped(128 + number)
        if number == signal.SIGINT:
            if again:
                raise KeyboardInterrupt
            with contextlib.suppress(OSError, RuntimeError):
                sys.stderr.write("\nstopping after this step; Ctrl-C again stops at once, without saving\n")
