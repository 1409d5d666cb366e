"""Notices that a rank has died, at once and whatever the others are waiting for.

Every rank keeps a connection to rank zero. The system closes those of a process that dies, so no clock decides: a rank
that computes, compiles or writes for long is not taken for dead. A machine that is gone is noticed by TCP's own probes.
"""

import contextlib
import os
import secrets
import socket
import threading
from collections.abc import Callable
from functools import partial
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, answer_challenge, deliver_challenge, wait
from typing import Any

_PROBES = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}  # seconds, seconds, number: half a minute in all
_GRACE = 5.0  # seconds in which a rank may end by itself, as where all end for the same reason
_END = b"end"
_LONGEST = 4096  # bytes of a message
_PERIOD = 1.0  # seconds until a watch that is to end ends


class RankConnections:
    """The connections of a rank, from the start of the others until :meth:`end`.

    Args:
        rank: This rank.
        ranks: Number of ranks.
        address: Host name of rank zero, as the others reach it.
        broadcast: Returns on every rank what rank zero passes.
        lost: Called in another thread, at most once, with what is known of a rank that has died or ended early.

    Raises:
        OSError: On a rank that cannot reach rank zero, the others are watched all the same; on rank zero if it cannot
            open a port, no rank is watched then.
    """

    def __init__(
        self,
        rank: int,
        ranks: int,
        address: str,
        broadcast: Callable[[Any], Any],
        lost: Callable[[str], None],
    ) -> None:
        self.rank, self._lost = rank, lost
        self._ended, self._heard = threading.Event(), threading.Event()
        self._news = ""
        self._others: dict[Connection, str] = {}
        self._joined = 0  # ranks that have connected to rank zero
        self._lock = threading.Lock()
        if rank == 0:
            self._listen(ranks, broadcast)
        else:
            port, key = broadcast(None)
            if port is None:
                return
            self._connect((address, port), key)
        _in_background(self._watch)

    def news(self, seconds: float) -> str:
        """Return what is known of a rank that has died, after waiting some seconds for it; an empty text if nothing."""
        self._heard.wait(seconds)
        return self._news

    def _listen(self, ranks: int, broadcast: Callable[[Any], Any]) -> None:
        key = secrets.token_bytes(16)
        try:
            server = socket.create_server(("", 0), backlog=ranks)
        except OSError:
            broadcast((None, key))  # for which the others wait
            raise
        broadcast((server.getsockname()[1], key))
        _in_background(lambda: self._accept(server, ranks - 1, key))

    def _connect(self, address: tuple[str, int], key: bytes) -> None:
        try:
            connection = Client(address, authkey=key)
        except (AuthenticationError, EOFError) as error:
            raise ConnectionError("another program answers there") from error
        connection.send_bytes(_name(self.rank).encode())
        self._add(connection)

    def _accept(self, server: socket.socket, number: int, key: bytes) -> None:
        server.settimeout(_PERIOD)
        with server:
            while self._joined < number:
                with contextlib.suppress(OSError):  # also that nobody has come
                    accepted, _ = server.accept()
                    accepted.setblocking(True)
                    connection = Connection(accepted.detach())
                    # Each by itself: a stranger, such as a port scanner, may stay silent.
                    _in_background(partial(self._welcome, connection, key))

    def _welcome(self, connection: Connection, key: bytes) -> None:
        try:
            deliver_challenge(connection, key)
            answer_challenge(connection, key)
            connection.send_bytes(_name(self.rank).encode())
            self._add(connection)
        except (AuthenticationError, OSError, EOFError):  # of a stranger
            connection.close()
            return
        with self._lock:
            self._joined += 1

    def _add(self, connection: Connection) -> None:
        name = connection.recv_bytes(_LONGEST).decode()
        _probe(connection)
        with self._lock:
            self._others[connection] = name

    def end(self, reason: str = "") -> None:
        """End the watch.

        Args:
            reason: Why this rank ends before the others, such as an error; they are told. Empty: it has done its part.
        """
        if self._ended.is_set():
            return
        self._ended.set()
        self._tell(f"{_name(self.rank)} ended: {reason}".encode()[:_LONGEST] if reason else _END)

    def _watch(self) -> None:
        while not self._ended.is_set():
            with self._lock:
                others = list(self._others)
            if not others:  # not yet connected, or all have ended
                self._ended.wait(_PERIOD)
            for connection in wait(others, timeout=_PERIOD) if others else ():
                assert isinstance(connection, Connection)
                with self._lock:
                    name = self._others.pop(connection)
                message = _received(connection)
                if message != _END:
                    self._spread(message.decode(errors="replace") or f"{name} has died")
                    return

    def _spread(self, news: str) -> None:
        self._tell(news.encode())
        self._news = news
        self._heard.set()
        if not self._ended.wait(_GRACE):
            self._lost(news)

    def _tell(self, message: bytes) -> None:
        with self._lock:
            for connection in self._others:
                with contextlib.suppress(OSError):
                    connection.send_bytes(message)


def _in_background(function: Callable[[], None]) -> None:
    threading.Thread(target=function, name="rank connections", daemon=True).start()


def _received(connection: Connection) -> bytes:
    """Return a message; an empty one if the other end is gone."""
    try:
        return connection.recv_bytes(_LONGEST)
    except (EOFError, OSError):
        return b""


def _name(rank: int) -> str:
    return f"rank {rank} (process {os.getpid()} on {socket.gethostname()})"


def _probe(connection: Connection) -> None:
    """Let the system ask now and then whether the other machine is still there."""
    with socket.socket(fileno=os.dup(connection.fileno())) as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _PROBES.items():
            if hasattr(socket, name):
                opened.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
