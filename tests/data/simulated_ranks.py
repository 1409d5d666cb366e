"""Ranks that are threads of one process, and the death of all or one of them."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

from dmaxlit.ranks import Ranks


class Killed(BaseException):
    """What a process that was killed does from then on."""


class Group:
    """What the ranks of one run exchange."""

    def __init__(self, size):
        self.size, self.exchanges, self.news = size, [], threading.Condition()
        self.has_ended = False

    def exchange(self, number, rank, value):
        with self.news:
            self.exchanges += [{}] if len(self.exchanges) == number else []
            values = self.exchanges[number]
            values[rank] = value
            self.news.notify_all()
            self.news.wait_for(lambda: len(values) == self.size or self.has_ended, timeout=60)
        if len(values) < self.size:
            raise RuntimeError("Connection closed by peer")  # as gloo does
        return [values[rank] for rank in range(self.size)]

    def end(self):
        with self.news:
            self.has_ended = True
            self.news.notify_all()


class SimulatedRanks(Ranks):
    """One of several ranks."""

    def __init__(self, group, rank):
        super().__init__()
        self.rank, self.world_size, self.group, self.exchanged = rank, group.size, group, 0

    def _exchange(self, value):
        self.exchanged += 1
        return self.group.exchange(self.exchanged - 1, self.rank, value)


def run_ranks(size, function):
    """Call a function with each rank, all at the same time; return the result or exception of each."""
    group = Group(size)

    def run(rank):
        try:
            return function(SimulatedRanks(group, rank))
        except BaseException as error:
            return error
        finally:
            group.end()

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, range(size)))


class Disk:
    """Counts what reaches the disk; from some operation on nothing does, as the process has been killed."""

    def __init__(self, monkeypatch, last=None):
        self.last, self.operations, self.lock = last, 0, threading.Lock()
        for name in ("fsync", "replace", "unlink"):
            monkeypatch.setattr(f"os.{name}", self._counting(name))

    def _counting(self, name):
        genuine = getattr(os, name)

        def operation(*args, **options):
            with self.lock:
                self.operations += 1
                if self.last is not None and self.operations > self.last:
                    if str(args[0]).endswith(".lock"):  # the system drops the lock, the file stays
                        return None
                    raise Killed
            return None if name == "fsync" else genuine(*args, **options)  # the system itself does not crash

        return operation
