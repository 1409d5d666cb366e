import os
import socket
import threading
import time
from contextlib import ExitStack
from queue import Queue

import pytest

from dmaxlit.training import rank_connections
from dmaxlit.training.rank_connections import RankConnections


@pytest.fixture(autouse=True)
def _no_grace(monkeypatch):
    monkeypatch.setattr(rank_connections, "_GRACE", 0.2)
    monkeypatch.setattr(rank_connections, "_PERIOD", 0.05)


@pytest.fixture
def watches():
    """Three ranks in one process, each with a queue of what it hears."""
    news, address, by_rank = [Queue() for _ in range(3)], Queue(), {}

    def broadcast(rank):
        def of_rank_zero(value):
            if rank == 0:
                for _ in range(2):
                    address.put(value)
                return value
            return address.get(timeout=10)

        return of_rank_zero

    def make(rank):
        by_rank[rank] = RankConnections(rank, 3, "127.0.0.1", broadcast(rank), news[rank].put)

    threads = [threading.Thread(target=make, args=(rank,)) for rank in range(3)]
    with ExitStack() as stack:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        limit = threading.Event()
        while len(by_rank[0]._others) < 2 and not limit.wait(0.01):
            pass
        for watch in by_rank.values():
            stack.callback(watch.end)
        yield by_rank, news


def test_the_others_do_not_wait_for_a_rank_zero_that_cannot_open_a_port(monkeypatch):
    def refuse(*args, **settings):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket, "create_server", refuse)
    sent = []
    with pytest.raises(PermissionError):
        RankConnections(0, 2, "127.0.0.1", sent.append, pytest.fail)
    other = RankConnections(1, 2, "127.0.0.1", lambda value: sent.pop(), pytest.fail)
    assert sent == []
    assert other.news(0) == ""
    other.end()


def test_a_rank_that_reaches_another_program_says_so():
    with socket.create_server(("127.0.0.1", 0)) as server:
        stranger = threading.Thread(target=lambda: server.accept()[0].close())
        stranger.start()
        port = server.getsockname()[1]
        with pytest.raises(OSError, match="another program answers there"):
            RankConnections(1, 2, "127.0.0.1", lambda value: (port, b"key"), pytest.fail)
        stranger.join()


def test_strangers_keep_no_rank_waiting():
    sent = []
    zero = RankConnections(0, 2, "127.0.0.1", sent.append, pytest.fail)
    port, _ = sent[0]
    with (
        socket.create_connection(("127.0.0.1", port)),  # stays silent
        socket.create_connection(("127.0.0.1", port)) as talking,
    ):
        talking.sendall(b"GET / HTTP/1.1\r\n\r\n")
        other = Queue()
        make = lambda: other.put(RankConnections(1, 2, "127.0.0.1", lambda value: sent[0], pytest.fail))  # noqa: E731
        threading.Thread(target=make, daemon=True).start()
        watch = other.get(timeout=10)
        assert len(watch._others) == 1
    watch.end()
    zero.end()


def close(watch):
    """What the system does for a process that dies.

    A dead process cannot tell one rank that it has lost another, so its thread waits until all connections are closed.
    """
    watch._ended.set()
    with watch._lock:
        for connection in list(watch._others):
            with socket.socket(fileno=os.dup(connection.fileno())) as opened:
                opened.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("victim", [0, 2])
def test_all_others_hear_of_a_death(watches, victim):
    by_rank, news = watches
    close(by_rank[victim])
    for rank in {0, 1, 2} - {victim}:
        assert news[rank].get(timeout=10).startswith(f"rank {victim} (process ")
        assert by_rank[rank].news(0).endswith(" has died")
    assert news[victim].empty()


def test_all_others_hear_why_a_rank_ends_early(watches):
    by_rank, news = watches
    by_rank[1].end("ValueError: x")
    for rank in (0, 2):
        assert news[rank].get(timeout=10).endswith(" ended: ValueError: x")


def test_ranks_that_end_together_or_one_after_another_say_nothing(watches):
    by_rank, news = watches
    by_rank[1].end("UserError: x")
    by_rank[0].end()
    by_rank[2].end()
    time.sleep(0.5)  # longer than others are waited for
    assert all(queue.empty() for queue in news)


def test_a_rank_that_has_done_its_part_is_not_missed(watches):
    by_rank, news = watches
    by_rank[2].end()
    close(by_rank[2])
    assert by_rank[0].news(0.3) == by_rank[1].news(0) == ""
    close(by_rank[1])
    assert news[0].get(timeout=10).startswith("rank 1 (process ")
