"""Notices within seconds that a process which shares a file has ended, by the lock that each of them holds."""

import time
from collections.abc import Callable
from pathlib import Path

from dmaxlit.locks import hold_of
from dmaxlit.ranks import LostRankError, Ranks

_SECONDS = 0.5  # between two looks at another process
_ROUND = 30.0  # seconds in which every process has been looked at, however many there are
_LAST_WORDS = 10.0  # seconds


class LockWatch:
    """Looks at the locks of the other processes, one after the other. The system drops the lock of one that dies.

    Args:
        ranks: The processes.
        path: Returns the path that a rank holds (see :func:`~dmaxlit.locks.exclusive`) until the end of the run. All
            hold theirs already.
    """

    def __init__(self, ranks: Ranks, path: Callable[[int], Path]) -> None:
        self._world_size, self._path = ranks.world_size, path
        self._others = [rank for rank in range(ranks.world_size) if rank != ranks.rank]
        self._turn, self._last_look = 0, time.monotonic()
        self._pause = min(_SECONDS, _ROUND / ranks.world_size)
        self._ended: list[int] = []

    def check(self) -> None:
        """Look at the next process, unless the last look was just now. Cheap enough for every forward.

        Raises:
            LostRankError: If it has ended.
        """
        if not self._others or time.monotonic() - self._last_look < self._pause:
            return
        self._last_look, self._turn = time.monotonic(), self._turn + 1
        rank = self._others[self._turn % len(self._others)]
        if hold_of(self._path(rank)) != "held":
            raise LostRankError(self._world_size, self.ended())

    def ended(self) -> list[int]:
        """Return the ranks that were killed; if none was, those that have ended in order, after a refusal.

        Found once: ranks that end later do so because of these.
        """
        if not self._ended:
            holds = {rank: hold_of(self._path(rank)) for rank in self._others}
            killed = [rank for rank, hold in holds.items() if hold == "killed"]
            self._ended = killed or [rank for rank, hold in holds.items() if hold == "released"]
        return self._ended

    def wait_for(self, rank: int) -> None:
        """Wait until a rank has ended, a few seconds at most."""
        end = time.monotonic() + _LAST_WORDS
        while hold_of(self._path(rank)) == "held" and time.monotonic() < end:
            time.sleep(self._pause)
