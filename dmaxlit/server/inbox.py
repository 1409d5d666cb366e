"""From the engine's thread to the request that waits."""

import asyncio
import contextlib
import threading

from dmaxlit.engine.stream import Draft
from dmaxlit.server.errors import ApiError

Item = Draft | ApiError


class Inbox:
    """Carries the drafts of a request's responses, or what stopped them, from the engine's thread to an event loop.

    A newer draft of a response replaces an older one that has not been read, so a slow reader costs no memory.

    Args:
        loop: The event loop of the reader.

    Attributes:
        has_failed: Whether one of the responses has, with which the request ends.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._arrived, self._lock = loop, asyncio.Event(), threading.Lock()
        self._items: dict[int, Item] = {}
        self.has_failed = False

    def post(self, number: int, item: Item) -> None:
        """Leave the newest draft of a response, from any thread.

        Args:
            number: Number of the response in the request.
            item: The draft, or the failure.
        """
        with self._lock:
            is_first = not self._items
            self._items[number] = item
            self.has_failed |= isinstance(item, ApiError)
        if is_first:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody reads any more
                self._loop.call_soon_threadsafe(self._arrived.set)

    async def take(self) -> dict[int, Item]:
        """Wait for news, and return them by the number of the response."""
        await self._arrived.wait()
        with self._lock:
            self._arrived.clear()
            items, self._items = self._items, {}
        return items
