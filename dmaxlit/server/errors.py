"""Refusals and failures, as OpenAI's API words them."""

from typing import Any

from starlette.exceptions import HTTPException

from dmaxlit.errors import PromptError, UserError, printable

_TYPES = {401: "authentication_error", 429: "rate_limit_error", 500: "server_error", 503: "server_error"}


class ApiError(HTTPException):
    """A request that is not answered.

    Args:
        status: Status of HTTP.
        message: One line for the client.
        code: A word for its program.
        param: Name of the field that is at fault, if one is.
        retry_after: Seconds after which it may try again; None if that would only fail again, which a header says that
            OpenAI's clients obey.
    """

    def __init__(
        self, status: int, message: str, code: str, param: str | None = None, retry_after: int | None = None
    ) -> None:
        headers = {"x-should-retry": "false"} if retry_after is None else {"Retry-After": str(retry_after)}
        super().__init__(status, message, headers)
        self.code, self.param = code, param

    @property
    def body(self) -> dict[str, Any]:
        """The body of the answer; what the client named in it may hold lone surrogates, which cannot be sent."""
        kind = _TYPES.get(self.status_code, "invalid_request_error")
        return {"error": {"message": printable(self.detail), "type": kind, "param": self.param, "code": self.code}}


def bad_request(message: str, param: str | None, code: str = "invalid_value") -> ApiError:
    """Return the refusal of a field."""
    return ApiError(400, message, code, param)


def of_user_error(error: UserError, param: str | None = None) -> ApiError:
    """Return the refusal of what the engine cannot use.

    Args:
        error: The engine's refusal.
        param: The field at fault; None for what the message begins with.
    """
    is_too_long = isinstance(error, PromptError) and "the context holds" in error.reason
    name = str(error).partition(":")[0]
    code = "context_length_exceeded" if is_too_long else "invalid_value"
    return bad_request(str(error), param or (name if name.replace("_", "").isalnum() else None), code)


def queue_full(most: int) -> ApiError:
    """Return the refusal of a request for which the queue has no room."""
    message = f"The server is busy: {most} responses wait already. Try again later."
    return ApiError(429, message, "queue_full", retry_after=1)


def out_of_time(seconds: float) -> ApiError:
    """Return the failure of a request that took too long."""
    return ApiError(503, f"The response was not complete within the {seconds:g} seconds of the server.", "timeout")


def no_memory(length: int) -> ApiError:
    """Return the refusal of a request that is too long for the memory; clients do not repeat it as they repeat a 503.

    Args:
        length: Its positions.
    """
    message = (
        f"max_tokens: expected a prompt and response that the server has memory for, got {length} tokens; ask for "
        "fewer, or let its --max_length cut them"
    )
    return bad_request(message, "max_tokens", "out_of_memory")


def shutting_down() -> ApiError:
    """Return the refusal of a server that is about to stop."""
    return ApiError(503, "The server is shutting down.", "shutting_down", retry_after=10)


def internal_error() -> ApiError:
    """Return the failure of the server itself; its log says more."""
    return ApiError(500, "The server failed to decode the response.", "internal_error")
