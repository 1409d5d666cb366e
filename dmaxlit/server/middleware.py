"""What every request passes before it is read: the key, the size, and the count of what was answered."""

import asyncio
import contextlib
import hmac

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dmaxlit.server.errors import ApiError
from dmaxlit.server.metrics import Metrics

_DROP_SECONDS, _MAX_DROPPED = 5, 2**26  # bytes
_MAX_DIGITS = 18  # of a size, which Python may refuse to read beyond thousands
_OPEN_PATHS = frozenset({"/health"})


class KeyCheck:
    """Refuses requests without the key, except for those of ``/health``.

    Args:
        app: What is protected.
        key: The key, which clients send as ``Authorization: Bearer KEY``.
    """

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app, self._key = app, key.strip().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] == "http" and scope["path"] not in _OPEN_PATHS:
            scheme, _, key = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
            # The scheme may be in small letters (RFC 9110); the key is compared in constant time.
            if scheme.lower() != b"bearer" or not hmac.compare_digest(key.strip(), self._key):
                error = ApiError(401, "The API key is missing or wrong: expected Authorization: Bearer KEY.", "bad_key")
                await JSONResponse(error.body, 401, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
                return
        await self._app(scope, receive, send)


class SizeLimit:
    """Refuses requests whose body is too large.

    What is left of it is read for a while and dropped: a client that still sends would not see the refusal.

    Args:
        app: What is protected.
        most: Most bytes.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        stated = dict(scope["headers"]).get(b"content-length", b"0")
        if not stated.isdigit() or len(stated) > _MAX_DIGITS or int(stated) > self._most:
            await _drop_rest(receive)
            await JSONResponse(self._error().body, 413)(scope, receive, send)
            return
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._most:
                await _drop_rest(receive)
                raise self._error()
            return message

        await self._app(scope, counted, send)

    def _error(self) -> ApiError:
        return ApiError(413, f"The request is too large: expected at most {self._most} bytes.", "request_too_large")


async def _drop_rest(receive: Receive) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DROP_SECONDS):
            dropped = 0
            while dropped < _MAX_DROPPED:
                message = await receive()
                dropped += len(message.get("body", b""))
                if not message.get("more_body"):  # the end, or the client has left
                    return


class RequestCount:
    """Counts requests by path and status.

    Args:
        app: What answers them.
        metrics: Counts them.
        paths: The paths that are told apart; others are counted together.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: frozenset[str]) -> None:
        self._app, self._metrics, self._paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self._paths else "other"
        is_answered = False

        async def counted(message: Message) -> None:
            nonlocal is_answered
            if message["type"] == "http.response.start":
                is_answered = True
                self._metrics.requests.labels(path, message["status"]).inc()
            await send(message)

        try:
            await self._app(scope, receive, counted)
        except Exception:  # answered outside of this, with status 500
            if not is_answered:
                self._metrics.requests.labels(path, 500).inc()
            raise
