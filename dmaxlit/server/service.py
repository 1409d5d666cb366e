"""Answers requests: whole, or as a stream of chunks."""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from dmaxlit.engine.generation import Generation
from dmaxlit.engine.settings import DecodeSettings
from dmaxlit.module import DMaxModule
from dmaxlit.server.errors import ApiError
from dmaxlit.server.intake import Intake, Order
from dmaxlit.server.limits import Limits
from dmaxlit.server.metrics import Metrics
from dmaxlit.server.protocol import ChatBody, CompletionBody, StreamOptions
from dmaxlit.server.responses import Format, event
from dmaxlit.server.scheduler import Scheduler

_CLIENT_LEFT = 499  # nginx's status; nobody reads it but the metrics


class Service:
    """A model that answers requests.

    Args:
        module: The model.
        name: Its name for clients.
        defaults: Settings of requests that name none.
        limits: What is granted to clients.
    """

    def __init__(self, module: DMaxModule, name: str, defaults: DecodeSettings, limits: Limits) -> None:
        self.name, self.limits, self.metrics = name, limits, Metrics()
        self.created = int(time.time())
        self.scheduler = Scheduler(limits, self.metrics)
        self.metrics.watch(lambda: self.scheduler.num_running, lambda: self.scheduler.num_waiting)
        self._intake = Intake(module, defaults, limits, self.scheduler)
        module.eval()

    def start(self) -> None:
        """Start to decode."""
        self.scheduler.start()

    def stop(self) -> None:
        """Stop to decode after the present forward."""
        self.scheduler.stop(0)
        self._intake.close()

    async def close(self) -> None:
        """Stop, and wait for the end of that forward."""
        self.stop()
        await asyncio.to_thread(self.scheduler.join)

    async def answer(self, body: ChatBody | CompletionBody, request: HttpRequest) -> Response:
        """Answer a request.

        Args:
            body: Its body.
            request: The request, which tells when the client has left.

        Raises:
            ApiError: If it cannot be answered.
        """
        arrived = time.monotonic()
        if body.model not in (None, self.name):
            raise ApiError(404, f"model: expected {self.name!r}, got {body.model!r}", "model_not_found", "model")
        order = await self._intake.order(body, arrived)
        options = body.stream_options or StreamOptions()
        form = Format(self.name, isinstance(body, ChatBody), order.seed, with_usage=options.include_usage)
        self.scheduler.submit(order.jobs)
        if body.stream:
            return _Stream(self, order, self._chunks(order, form, options, arrived))
        try:
            generations = await _unless_gone(self._generations(order, arrived), request)
        finally:
            self.scheduler.cancel(order.jobs)
        if generations is None:
            return Response(status_code=_CLIENT_LEFT)
        return JSONResponse(form.body(generations, order.prompt_ids, body.return_token_ids))

    async def _generations(self, order: Order, arrived: float) -> list[Generation]:
        """Wait for all responses of a request."""
        generations: dict[int, Generation] = {}
        while len(generations) < len(order.jobs):
            for number, item in (await order.inbox.take()).items():
                if isinstance(item, ApiError):
                    raise item
                if item.generation is not None:
                    generations[number] = item.generation
        return self._counted(order, generations, arrived)

    async def _chunks(self, order: Order, form: Format, options: StreamOptions, arrived: float) -> AsyncIterator[bytes]:
        """Yield the responses of a request piece by piece."""
        num_sent = dict.fromkeys(range(len(order.jobs)), 0)
        generations: dict[int, Generation] = {}
        for number in num_sent if form.is_chat else ():
            yield form.first(number)
        while len(generations) < len(order.jobs):
            for number, item in (await order.inbox.take()).items():
                if isinstance(item, ApiError):
                    yield event(item.body)
                    return
                if new := item.committed[num_sent[number] :]:
                    num_sent[number] = len(item.committed)
                    yield form.text(number, new)
                if item.generation is not None:
                    generations[number] = item.generation
                    yield form.end(number, item.generation)
                elif options.include_provisional:
                    yield form.provisional(number, item)
        complete = self._counted(order, generations, arrived)
        if options.include_usage:
            yield form.usage(complete, order.prompt_ids)
        yield b"data: [DONE]\n\n"

    def _counted(self, order: Order, generations: dict[int, Generation], arrived: float) -> list[Generation]:
        """Count complete responses, and return them in order."""
        complete = [generations[number] for number in range(len(order.jobs))]
        self.metrics.count(complete, order.prompt_ids, time.monotonic() - arrived)
        return complete


class _Stream(StreamingResponse):
    """Sends chunks, and gives up the rows of its responses whatever ends it."""

    def __init__(self, service: Service, order: Order, chunks: AsyncIterator[bytes]) -> None:
        super().__init__(chunks, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._service, self._order = service, order

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._service.scheduler.cancel(self._order.jobs)


async def _unless_gone(
    generations: Coroutine[Any, Any, list[Generation]], request: HttpRequest
) -> list[Generation] | None:
    """Return the responses, or None as soon as the client has left."""
    waiting, gone = asyncio.ensure_future(generations), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
        return await waiting if waiting.done() else None
    finally:
        for task in (waiting, gone):
            task.cancel()


async def _left(request: HttpRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
