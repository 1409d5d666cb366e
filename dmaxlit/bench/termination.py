"""Ending a benchmark ends the processes that it has started: no training goes on unseen and disturbs the next one."""

import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
_running: set["subprocess.Popen[str]"] = set()  # also what threads have started, which hear of no signal


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """Within, SIGTERM and SIGHUP raise ``SystemExit``, with the status 128 + their number, as Ctrl-C interrupts.

    A signal that is ignored stays so: ``nohup`` lets a benchmark outlive its terminal. Outside of the main thread,
    which alone may handle signals, nothing changes.
    """
    is_main = threading.current_thread() is threading.main_thread()
    obeyed = [number for number in _SIGNALS if is_main and signal.getsignal(number) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, _exit) for number in obeyed}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def terminate_on_exit(process: "subprocess.Popen[str]") -> Iterator[None]:
    """Within, whatever is raised ends a process first, and waits until it has: ``fit`` saves its state.

    Outside of the main thread, where no signal raises anything, the process is ended by the signal itself.
    """
    _running.add(process)
    try:
        yield
    except BaseException:
        process.terminate()
        process.wait()
        raise
    finally:
        _running.remove(process)


def _exit(number: int, frame: FrameType | None) -> None:
    for process in tuple(_running):
        process.terminate()
    raise SystemExit(128 + number)
