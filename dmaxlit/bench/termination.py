"""Ending a benchmark ends the processes that it has started: no training goes on unseen and disturbs the next one."""

import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


@dataclass
class _State:
    running: set["subprocess.Popen[str]"] = field(default_factory=set)  # also by threads, which hear of no signal
    number: int | None = None  # of the signal that has come
    is_held: bool = False  # while the main thread starts a process


_state = _State()


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
        _state.number = None


@contextmanager
def terminating(command: Sequence[str], **options: Any) -> Iterator["subprocess.Popen[str]"]:
    """Start a process that whatever is raised within ends first, and wait until it has: ``fit`` saves its state.

    Outside of the main thread, where no signal raises anything, the process is ended by the signal itself.

    Args:
        command: The command.
        options: Of ``subprocess.Popen``; text is asked for.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if is_main:
        _state.is_held = True  # raised in the middle of it, SystemExit would leave a process that nobody knows
    try:
        process = subprocess.Popen(command, text=True, **options)
        _state.running.add(process)
    finally:
        if is_main:
            _state.is_held = False
    with process:
        try:
            if _state.number is not None:  # the signal came meanwhile
                if is_main:
                    raise SystemExit(128 + _state.number)
                process.terminate()
            yield process
        except BaseException:
            process.terminate()
            process.wait()
            raise
        finally:
            _state.running.remove(process)


def _exit(number: int, frame: FrameType | None) -> None:
    _state.number = number
    for process in tuple(_state.running):
        process.terminate()
    if not _state.is_held:
        raise SystemExit(128 + number)
