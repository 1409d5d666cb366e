"""Rows of answers, made several at a time where judging an answer runs it as a program."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

Row = dict[str, Any]
_PER_PROCESSOR = 4  # answers that are judged together: so many that hardly a processor waits for the last ones


def made_rows(makers: Iterable[Callable[[], Row]], runs_answers: bool) -> Iterator[Row]:
    """Yield the rows that functions make, in order.

    Args:
        makers: Return a row each.
        runs_answers: Whether they run programs, each in processes of its own, so that all processors are of use.
    """
    if not runs_answers:
        yield from (make() for make in makers)
        return
    with _threads() as pool:
        yield from pool.map(lambda make: make(), makers)


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(_num_processors(), thread_name_prefix="dmaxlit-judge")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _num_processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WaitingRows:
    """Collects what makes rows until it pays to make them.

    Args:
        use: Receives the rows, in order.
        runs_answers: As of :func:`made_rows`. If not, each row is made at once.
    """

    def __init__(self, use: Callable[[Row], object], runs_answers: bool) -> None:
        self._use, self._runs_answers = use, runs_answers
        self._most = _PER_PROCESSOR * _num_processors() if runs_answers else 1
        self._waiting: list[Callable[[], Row]] = []

    def add(self, make: Callable[[], Row]) -> bool:
        """Add what makes a row; return whether there are as many now as are to be made together."""
        self._waiting.append(make)
        return len(self._waiting) >= self._most

    def make(self) -> None:
        """Make the rows, and hand them over."""
        waiting, self._waiting = self._waiting, []
        for row in made_rows(waiting, self._runs_answers):
            self._use(row)
