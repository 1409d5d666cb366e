import os
import socket
import threading
from contextlib import ExitStack
from queue import Queue

import pytest

from dmaxlit.training import rank_watch
from dmaxlit.training.rank_watch import RankWatch


@pytest.fixture(autouse=True)
def _no_grace(monkeypatch):
    monkeypatch.setattr(rank_watch, "_GRACE", 0.2)
    monkeypatch.setattr(rank_watch, "_PERIOD", 0.05)


@pytest.fixture
def watches():
    """Three ranks in one process, each with a queue of what it is told."""
    told, address, made = [Queue() for _ in range(3)], Queue(), {}

    def broadcast(rank):
        def of_rank_zero(value):
            if rank == 0:
                for _ in range(2):
                    address.put(value)
                return value
            return address.get(timeout=10)

        return of_rank_zero

    def make(rank):
        made[rank] = RankWatch(rank, 3, "127.0.0.1", broadcast(rank), told[rank].put)

    threads = [threading.Thread(target=make, args=(rank,)) for rank in range(3)]
    with ExitStack() as stack:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        limit = threading.Event()
        while len(made[0]._others) < 2 and not limit.wait(0.01):
            pass
        for watch in made.values():
            stack.callback(watch.end)
        yield made, told


def close(watch):
    """What the system does for a process that dies."""
    watch._ended.set()
    for connection in list(watch._others):
        with socket.socket(fileno=os.dup(connection.fileno())) as opened:
            opened.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("victim", [0, 2])
def test_all_others_hear_of_a_death(watches, victim):
    made, told = watches
    close(made[victim])
    for rank in {0, 1, 2} - {victim}:
        assert told[rank].get(timeout=10).startswith(f"rank {victim} (process ")
        assert made[rank].news(0).endswith(" has died")
    assert told[victim].empty()


def test_all_others_hear_why_a_rank_ends_early(watches):
    made, told = watches
    made[1].end("ValueError: x")
    for rank in (0, 2):
        assert told[rank].get(timeout=10).endswith(" ended: ValueError: x")


def test_ranks_that_end_together_or_one_after_another_say_nothing(watches):
    made, told = watches
    made[1].end("UserError: x")
    made[0].end()
    made[2].end()
    assert made[2].news(0.5) in ("", made[0].news(0))
    assert all(queue.empty() for queue in told)


def test_a_rank_that_has_done_its_part_is_not_missed(watches):
    made, told = watches
    made[2].end()
    close(made[2])
    assert made[0].news(0.3) == made[1].news(0) == ""
    close(made[1])
    assert told[0].get(timeout=10).startswith("rank 1 (process ")
