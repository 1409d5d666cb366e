"""The paths of the server."""

import contextlib
import reprlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from dmaxlit.decoding.admission import make_admission
from dmaxlit.engine.settings import DecodeSettings
from dmaxlit.errors import check_at_least
from dmaxlit.module import DMaxModule
from dmaxlit.server.errors import ApiError, bad_request, internal_error
from dmaxlit.server.limits import Limits
from dmaxlit.server.middleware import KeyCheck, RequestCount, SizeLimit
from dmaxlit.server.protocol import ChatBody, CompletionBody
from dmaxlit.server.service import Service

__all__ = ["create_app"]

_LONGEST = 80  # characters of a header in a message
_CODES = {404: "not_found", 405: "method_not_allowed"}
_PATHS = frozenset({"/v1/completions", "/v1/chat/completions", "/v1/models", "/health", "/metrics"})


def create_app(
    module: DMaxModule,
    name: str,
    defaults: DecodeSettings | None = None,
    limits: Limits | None = None,
    api_key: str | None = None,
) -> FastAPI:
    """Make the ASGI application that serves a model. It decodes from its startup to its shutdown.

    Args:
        module: The model, which is switched to eval mode. Nothing else may use it meanwhile.
        name: Its name for clients.
        defaults: Settings of requests that name none.
        limits: What is granted to clients.
        api_key: Key that clients must send; None for none.

    Raises:
        UserError: For settings that no request could use.
    """
    defaults = defaults or DecodeSettings()
    check_at_least(1, max_new_tokens=defaults.max_new_tokens)
    make_admission(defaults.admission, **defaults.admission_options)  # of requests that ask for a window
    defaults.without_unused_policy().make_engine(module.backbone)
    service = Service(module, name, defaults, limits or Limits())

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            service.stop()  # all that is done when the server itself is interrupted
        await service.close()

    app = FastAPI(lifespan=lifespan, openapi_url=None)
    app.state.service = service
    # The last one is the outermost.
    app.add_middleware(SizeLimit, most=service.limits.max_body)
    if api_key is not None:
        app.add_middleware(KeyCheck, key=api_key)
    app.add_middleware(RequestCount, metrics=service.metrics, paths=_PATHS)
    _add_error_handlers(app)
    _add_paths(app, service)
    return app


def _add_paths(app: FastAPI, service: Service) -> None:
    model = {"id": service.name, "object": "model", "created": service.created, "owned_by": "dmaxlit"}

    @app.post("/v1/completions", response_model=None)
    async def completions(body: CompletionBody, request: Request) -> Response:
        return await service.answer(body, request)

    @app.post("/v1/chat/completions", response_model=None)
    async def chat_completions(body: ChatBody, request: Request) -> Response:
        return await service.answer(body, request)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{name:path}")
    async def model_named(name: str) -> dict[str, Any]:
        if name != service.name:
            raise ApiError(404, f"model: expected {service.name!r}, got {name!r}", "model_not_found", "model")
        return model

    @app.get("/health", response_model=None)
    async def health() -> Response:
        scheduler = service.scheduler
        content = {
            "status": "ok" if scheduler.is_alive else "stopping" if scheduler.is_stopping else "stopped",
            "running": scheduler.num_running,
            "waiting": scheduler.num_waiting,
        }
        return JSONResponse(content, 200 if scheduler.is_alive else 503)

    @app.get("/metrics", response_model=None)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        if not isinstance(error, ApiError):  # a path that is not there, or a body that is no JSON
            error = ApiError(error.status_code, str(error.detail), _CODES.get(error.status_code, "invalid_request"))
        return JSONResponse(error.body, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        refusal = _of_validation(error, request.headers.get("content-type"))
        return JSONResponse(refusal.body, refusal.status_code)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        failure = internal_error()
        return JSONResponse(failure.body, failure.status_code, failure.headers)


def _of_validation(error: RequestValidationError, content_type: str | None) -> ApiError:
    """Return the refusal of a body by its first field that is wrong."""
    first = error.errors()[0]
    if isinstance(error.body, bytes):  # a body that does not say that it is JSON is not read as such
        came = "none" if content_type is None else repr(content_type[:_LONGEST])
        return bad_request(f"body: expected JSON with the header Content-Type: application/json, got {came}", None)
    path = [str(part) for part in first["loc"][1:]]
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "json_invalid":
        return bad_request(f"body: expected JSON, got something else ({message})", None, "invalid_json")
    if first["type"] == "value_error":
        return bad_request(message, message.partition(":")[0])
    field = ".".join(path) or "body"
    value = first.get("input")
    is_out_of_range = first["type"] in ("greater_than_equal", "less_than")
    came = reprlib.repr(value) if is_out_of_range else type(value).__name__
    return bad_request(f"{field}: {message[:1].lower()}{message[1:]}, got {came}", path[0] if path else None)
