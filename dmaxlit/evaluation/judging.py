"""Rows of answers, made several at a time where judging an answer runs it as a program."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from dmaxlit.errors import UserError

Row = dict[str, Any]
_PER_JUDGE = 4  # answers that wait for each: so many that hardly one is idle at the end
_MOST_SECONDS = 30.0  # that an answer waits until the next one has them made: what waits is in memory only
_RESCUE_SECONDS = 5.0  # within which some hundred short programs are judged, and a user still waits after Ctrl-C


def made_rows(makers: Iterable[Callable[[], Row]], at_once: int, seconds: float | None = None) -> Iterator[Row]:
    """Yield the rows that functions make, in order.

    Args:
        makers: Return a row each.
        at_once: How many are made side by side, of :func:`num_judges`.
        seconds: Time after which no more are begun, where several are made side by side; None for no limit.

    Raises:
        TimeoutError: If a row is not ready by then.
    """
    if at_once == 1:
        yield from (make() for make in makers)
        return
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="dmaxlit-judge")
    try:
        yield from pool.map(lambda make: make(), makers, timeout=seconds)
    finally:
        pool.shutdown(cancel_futures=True)


def num_judges(runs_answers: bool, num_processes: int = 1) -> int:
    """Return how many answers are judged side by side.

    Args:
        runs_answers: Whether that runs them as programs, in processes of their own. If not, threads are of no use.
        num_processes: Processes that share the processors of this node. With more programs than these can run, the
            clock would change verdicts.
    """
    return max(_num_processors() // num_processes, 1) if runs_answers else 1


def _num_processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WaitingRows:
    """Collects what makes rows until it pays to make them.

    Args:
        use: Receives the rows, in order. One that it cannot record is refused, but kept to be recorded later.
        at_once: As of :func:`made_rows`. With 1, no row waits.
        now: Returns the time in seconds.
    """

    def __init__(self, use: Callable[[Row], object], at_once: int, now: Callable[[], float] = time.monotonic) -> None:
        self._use, self._at_once, self._now = use, at_once, now
        self._most = 1 if at_once == 1 else _PER_JUDGE * at_once
        self._waiting: list[Callable[[], Row]] = []
        self._since = 0.0

    def add(self, make: Callable[[], Row]) -> bool:
        """Add what makes a row; return whether they are to be made: there are enough, or the first has waited too long.

        Nobody asks between two answers: where the next one takes its time, they wait as long.
        """
        if not self._waiting:
            self._since = self._now()
        self._waiting.append(make)
        return len(self._waiting) >= self._most or self._now() - self._since >= _MOST_SECONDS

    def make(self) -> None:
        """Make the rows, and hand them over; after an error those that are not handed over wait further."""
        for row in self._made():
            self._use(row)

    def rescue(self) -> None:
        """Make what can be made in a few seconds, for the end of a run that was interrupted.

        It takes longer by as much as the programs take that run then. Without judges side by side nothing waits but the
        row that was being made, and that could take any time.
        """
        end = self._now() + _RESCUE_SECONDS
        while self._at_once > 1 and self._waiting:
            try:
                for row in self._made(end - self._now()):
                    with suppress(UserError):  # of a full disk
                        self._use(row)
            except TimeoutError:
                return
            except UserError:  # of an answer that cannot be judged, which may be why the run ends
                del self._waiting[0]

    def _made(self, seconds: float | None = None) -> Iterator[Row]:
        """Yield the rows; those yielded wait no longer."""
        for row in made_rows(list(self._waiting), self._at_once, seconds):
            del self._waiting[0]
            yield row
