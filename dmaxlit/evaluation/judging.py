"""Rows of answers, made several at a time where judging an answer runs it as a program."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

Row = dict[str, Any]
_PER_JUDGE = 4  # answers that wait for each: so many that hardly one is idle at the end


def made_rows(makers: Iterable[Callable[[], Row]], at_once: int) -> Iterator[Row]:
    """Yield the rows that functions make, in order.

    Args:
        makers: Return a row each.
        at_once: How many are made side by side, of :func:`num_judges`.
    """
    if at_once == 1:
        yield from (make() for make in makers)
        return
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="dmaxlit-judge")
    try:
        yield from pool.map(lambda make: make(), makers)
    finally:
        pool.shutdown(cancel_futures=True)


def num_judges(runs_answers: bool, num_processes: int = 1) -> int:
    """Return how many answers are judged side by side.

    Args:
        runs_answers: Whether that runs them as programs, in processes of their own. If not, threads are of no use.
        num_processes: Processes that share the processors. With more programs than these can run, the clock would
            change verdicts.
    """
    return max(_num_processors() // num_processes, 1) if runs_answers else 1


def _num_processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WaitingRows:
    """Collects what makes rows until it pays to make them.

    Args:
        use: Receives the rows, in order.
        at_once: As of :func:`made_rows`. With 1, no row waits.
    """

    def __init__(self, use: Callable[[Row], object], at_once: int) -> None:
        self._use, self._at_once = use, at_once
        self._most = 1 if at_once == 1 else _PER_JUDGE * at_once
        self._waiting: list[Callable[[], Row]] = []

    def add(self, make: Callable[[], Row]) -> bool:
        """Add what makes a row; return whether there are as many now as are to be made together."""
        self._waiting.append(make)
        return len(self._waiting) >= self._most

    def make(self) -> None:
        """Make the rows, and hand them over."""
        waiting, self._waiting = self._waiting, []
        for row in made_rows(waiting, self._at_once):
            self._use(row)
