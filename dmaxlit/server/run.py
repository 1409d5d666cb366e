"""A process that serves until it is told to stop."""

import asyncio
import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

import uvicorn
from fastapi import FastAPI

from dmaxlit.errors import UserError, reason_of
from dmaxlit.server.service import Service

_NUM_PORTS = 2**16
_SPARE_SECONDS = 5  # for what is left to send
_PAUSE = 0.02  # seconds between two looks at whether all responses have ended


class _Server(uvicorn.Server):
    """Uvicorn's server, which lets the engine finish what it decodes, and ends normally after a signal."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse what waits, let what is being decoded end, and only then close the socket.

        So a load balancer that asks for ``/health`` meanwhile learns that the server is stopping, and the requests that
        it still sends are refused in words.
        """
        scheduler, seconds = self._service.scheduler, self._service.limits.shutdown_seconds
        scheduler.stop(seconds)
        limit = time.monotonic() + seconds + _SPARE_SECONDS
        while scheduler.is_stopping and not self.force_exit and time.monotonic() < limit:
            await asyncio.sleep(_PAUSE)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Obey SIGINT and SIGTERM while serving; they are not raised again afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Args:
        host: Address or name.
        port: Port; 0 for one that is free.

    Raises:
        UserError: If the address cannot be used.
    """
    if not 0 <= port < _NUM_PORTS:
        raise UserError(f"port: expected a number from 0 to {_NUM_PORTS - 1}, got {port}")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, UnicodeError) as error:  # a name that is none is the latter
        raise UserError(
            f"host, port: expected an address that is free, got {host}:{port} ({reason_of(error)})"
        ) from error


def make_server(app: FastAPI, log_requests: bool = False) -> uvicorn.Server:
    """Make the server of an application; its ``run`` serves until the process gets SIGTERM or SIGINT.

    Args:
        app: What :func:`~dmaxlit.server.create_app` made.
        log_requests: Whether to log every request.
    """
    service: Service = app.state.service
    config = uvicorn.Config(
        app,
        log_level="info" if log_requests else "warning",
        access_log=log_requests,
        server_header=False,
        lifespan="on",  # "auto" takes an error at startup for an app that has none, and answers every request with it
        timeout_graceful_shutdown=int(service.limits.shutdown_seconds) + _SPARE_SECONDS,
    )
    return _Server(config, service)


def serve(
    app: FastAPI, listener: socket.socket, log_requests: bool = False, announce: Callable[[str], object] | None = None
) -> None:
    """Serve until SIGTERM or Ctrl-C; then finish what is being decoded, within the limits.

    Args:
        app: What :func:`~dmaxlit.server.create_app` made.
        listener: The socket.
        log_requests: Whether to log every request.
        announce: Called with the base URL of clients.

    Raises:
        KeyboardInterrupt: After a second Ctrl-C, at once.
    """
    server = make_server(app, log_requests)
    if announce is not None:
        host, port = listener.getsockname()[:2]
        announce(f"http://{f'[{host}]' if ':' in host else host}:{port}/v1")
    server.run(sockets=[listener])
    if server.force_exit:
        raise KeyboardInterrupt
    if not server.started:
        raise RuntimeError("the server could not start")
