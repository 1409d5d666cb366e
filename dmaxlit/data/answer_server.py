"""Responses from a server that speaks OpenAI's API: sglang, vLLM, ``dmaxlit serve`` and others."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from dmaxlit.data.refused_prompts import RefusedPrompts
from dmaxlit.data.served_response import ServedResponse
from dmaxlit.errors import PromptError, UserError, check_at_least, check_choice, printable, reason_of
from dmaxlit.randomness import stable_seed
from dmaxlit.tasks.prompts import conversation_of, is_plain

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from dmaxlit.data.encoding import Prompt

__all__ = ["AnswerServer"]

#: The environment variable with the key of the server; servers without keys need none.
API_KEY = "OPENAI_API_KEY"

_RESERVED = ("model", "messages", "tools", "prompt", "n", "stream", "max_tokens", "temperature", "top_p", "seed")
_REFUSED_PROMPT = (400, 413, 422)  # what servers answer to a prompt that they cannot take
_TICK_SECONDS = 1.0
_MAX_SEED = 2**31  # servers take 32 bits


@dataclass(frozen=True)
class AnswerServer:
    """A server that answers prompts.

    It is asked by the official client: a request that fails because the server is busy, restarting or out of reach is
    repeated, after ever longer pauses or the ``Retry-After`` that the server asks for. The key, if it wants one, is
    that of the environment variable ``OPENAI_API_KEY``.

    Args:
        base_url: Its address, up to ``/v1``.
        model: Name of the model there.
        endpoint: ``chat`` asks for the assistant's turn after the messages of a prompt, with its tools, a text is one
            message of the user; ``completions`` lets the model continue a text.
        request_options: Further fields of each request, such as ``{"decoder": "spd"}`` for ``dmaxlit serve``.
        concurrency: Requests at the same time.
        max_retries: How often a request is repeated before the run stops.
        timeout: Seconds for one answer.

    Raises:
        UserError: If a setting is out of range, or the client is not installed.
    """

    base_url: str
    model: str
    endpoint: Literal["chat", "completions"] = "chat"
    request_options: dict[str, Any] = field(default_factory=dict)
    concurrency: int = 32
    max_retries: int = 8
    timeout: float = 600.0

    def __post_init__(self) -> None:
        """Check the settings."""
        try:
            parts = urlsplit(self.base_url)
            is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            is_url = False
        if not is_url:
            raise UserError(f"base_url: expected an address such as http://localhost:8000/v1, got {self.base_url!r}")
        check_choice("endpoint", self.endpoint, ("chat", "completions"))
        check_at_least(1, concurrency=self.concurrency)
        check_at_least(0, max_retries=self.max_retries)
        if not 0 < self.timeout < float("inf"):
            raise UserError(f"timeout: expected a number of seconds above 0, got {self.timeout}")
        for name in _RESERVED:
            if name in self.request_options:
                raise UserError(f"request_options: expected no {name}, which has a setting of its own or is fixed")
        try:
            import openai  # noqa: F401
        except ImportError as error:
            raise UserError("base_url: expected the openai package (pip install -e '.[openai]')") from error

    def identity(self) -> dict[str, Any]:
        """Return what responses depend on, for the manifest of a corpus; without a password in the address."""
        parts = urlsplit(self.base_url)
        address = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
        return {
            "base_url": address.rstrip("/"),
            "model": self.model,
            "endpoint": self.endpoint,
            "request_options": self.request_options,
        }

    def asked(self, prompt: Prompt) -> Prompt:
        """Return a prompt as the server gets it: messages, or a text, which for ``chat`` is one message of the user.

        Raises:
            UserError: If the endpoint has no form for it.
        """
        asked: Prompt = conversation_of(prompt) if self.endpoint == "chat" else prompt
        if self.endpoint == "chat" and is_plain(prompt):
            raise UserError("expected a conversation for the endpoint chat, got a text to continue (chat: false)")
        if self.endpoint == "completions" and not isinstance(prompt, str):
            raise UserError("expected a text for the endpoint completions, got messages")
        return asked

    def check(self) -> None:
        """Ask the server for its models, so that a wrong address is found before a long run begins.

        Raises:
            UserError: If it cannot be reached, refuses the key, or has models, but not this one.
        """
        asyncio.run(self._check())

    def generate(
        self,
        prompts: Sequence[Prompt],
        indices: Sequence[int],
        take: Callable[[int, ServedResponse], object],
        tick: Callable[[int], object] | None = None,
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] = (),
        is_answered: bool = False,
    ) -> bool:
        """Let the server answer prompts, and return whether it has answered any, now or before.

        One that it refuses has an unfinished, empty response, and the first of these is warned of. They are passed on
        once another prompt is answered, or at the end if there are fewer than 16 prompts.

        Args:
            prompts: The prompts.
            indices: Index of each among all prompts of a file, on which its seed depends.
            take: Called with the position of each prompt and its response, as soon as it is there.
            tick: Called every second; what it raises ends the requests.
            max_new_tokens: Most tokens of a response.
            temperature: As for :class:`~dmaxlit.engine.DecodeSettings`.
            top_p: Likewise.
            seed: Of the samples.
            stop: Texts that end a response; a field ``stop`` of ``request_options`` takes precedence.
            is_answered: Whether the server has answered another prompt before, with the same settings.

        Raises:
            PromptError: If the server refuses every prompt, of at least 16, and has answered none before.
            UserError: If the server fails for good, or answers something else.
        """
        shared: dict[str, Any] = {"max_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}
        if stop:
            shared["stop"] = [*stop]

        def fields(position: int) -> dict[str, Any]:
            if not temperature:
                return shared
            return shared | {"seed": stable_seed("server", seed, indices[position]) % _MAX_SEED}

        refused = RefusedPrompts(self._address, take, is_answered)
        asyncio.run(self._generate(prompts, fields, refused.take, tick))
        refused.end()
        return refused.is_answered

    async def _check(self) -> None:
        from openai import APIStatusError, AuthenticationError, OpenAIError, PermissionDeniedError

        async with self._client(max_retries=1) as client:
            try:
                names = [model.id for model in (await client.models.list()).data]
            except (AuthenticationError, PermissionDeniedError) as error:
                raise self._failure(error) from error
            except APIStatusError:
                return  # some servers do not say what they have
            except (OpenAIError, ValueError, TypeError, AttributeError) as error:
                raise self._failure(error) from error
        if names and self.model not in names:
            known = ", ".join(sorted(map(printable, names))[:5])
            raise UserError(f"model: expected a model of {self._address}, which has {known}; got {self.model!r}")

    async def _generate(
        self,
        prompts: Sequence[Prompt],
        fields: Callable[[int], dict[str, Any]],
        take: Callable[[int, ServedResponse], object],
        tick: Callable[[int], object] | None,
    ) -> None:
        positions = iter(range(len(prompts)))
        async with self._client(self.max_retries) as client:
            workers = [
                asyncio.ensure_future(self._work(client, positions, prompts, fields, take))
                for _ in range(min(self.concurrency, len(prompts)))
            ]
            try:
                waiting: set[asyncio.Future[None]] = set(workers)
                while waiting:
                    done, waiting = await asyncio.wait(
                        waiting, timeout=_TICK_SECONDS, return_when=asyncio.FIRST_EXCEPTION
                    )
                    for worker in done:
                        worker.result()
                    if tick is not None:
                        tick(0)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _work(
        self,
        client: AsyncOpenAI,
        positions: Iterator[int],
        prompts: Sequence[Prompt],
        fields: Callable[[int], dict[str, Any]],
        take: Callable[[int, ServedResponse], object],
    ) -> None:
        """Answer one prompt after the other, as long as any is left."""
        for position in positions:
            take(position, await self._answer(client, position, prompts[position], fields(position)))

    async def _answer(
        self, client: AsyncOpenAI, position: int, prompt: Prompt, fields: dict[str, Any]
    ) -> ServedResponse:
        from openai import APIStatusError, OpenAIError

        try:
            asked: Any = self.asked(prompt)
        except UserError as error:
            raise PromptError(position, str(error)) from error
        try:
            if self.endpoint == "chat":
                if isinstance(asked, str):
                    asked = [{"role": "user", "content": str(asked)}]
                if (tools := getattr(prompt, "tools", None)) is not None:
                    fields = {**fields, "tools": tools}
                answer: Any = await client.chat.completions.create(
                    model=self.model, messages=asked, extra_body=self.request_options, **fields
                )
            else:
                answer = await client.completions.create(
                    model=self.model, prompt=str(asked), extra_body=self.request_options, **fields
                )
        except APIStatusError as error:
            if error.status_code in _REFUSED_PROMPT:
                return ServedResponse("", finished=False, num_tokens=0, refusal=reason_of(error))
            raise self._failure(error) from error
        except (OpenAIError, ValueError) as error:
            raise self._failure(error) from error
        return self._response(answer)

    def _response(self, answer: Any) -> ServedResponse:
        """Read the answer."""
        try:
            choice = answer.choices[0]
            text = _content(choice.message) if self.endpoint == "chat" else choice.text
            response = ServedResponse(
                text,
                choice.finish_reason == "stop",
                answer.usage.completion_tokens,
                getattr(choice, "num_forwards", None) or 0,
            )
        except (AttributeError, IndexError, TypeError) as error:
            raise self._failure(error) from error
        if not isinstance(text, str) or not isinstance(response.num_tokens, int):
            raise UserError(f"base_url: expected a completion with text and usage from {self._address}, got another")
        return response

    def _client(self, max_retries: int) -> AsyncOpenAI:
        from openai import AsyncOpenAI

        return AsyncOpenAI(
            base_url=self.base_url,
            api_key=os.environ.get(API_KEY) or "none",
            max_retries=max_retries,
            timeout=self.timeout,
        )

    @property
    def _address(self) -> str:
        return str(self.identity()["base_url"])

    def _failure(self, error: Exception) -> UserError:
        """Return what is wrong with the server, in one line."""
        from openai import APIConnectionError, APIStatusError, APITimeoutError, AuthenticationError, NotFoundError

        address = self._address
        if isinstance(error, AuthenticationError):
            return UserError(f"{API_KEY}: expected the key of {address}, got one that it refuses: {reason_of(error)}")
        if isinstance(error, APITimeoutError):
            return UserError(f"timeout: expected an answer of {address} within {self.timeout:g} s, got none")
        if isinstance(error, APIConnectionError):
            return UserError(f"base_url: expected a server at {address}, got: {reason_of(error.__cause__ or error)}")
        if isinstance(error, NotFoundError) and "/v1" not in urlsplit(address).path:
            return UserError(f"base_url: expected an address up to /v1, got {address!r}: {reason_of(error)}")
        if isinstance(error, NotFoundError):
            return UserError(f"model: expected {self.model!r} at the base_url {address}, got: {reason_of(error)}")
        if isinstance(error, APIStatusError):
            status = f"status {error.status_code} after {self.max_retries} retries"
            return UserError(f"base_url: expected completions from {address}, got {status}: {reason_of(error)}")
        is_other = isinstance(error, (AttributeError, IndexError, TypeError))  # the client does not check what it reads
        got = "another body" if is_other else reason_of(error, with_type=True)
        return UserError(f"base_url: expected completions as OpenAI's API has them from {address}, got {got}")


def _content(message: Any) -> Any:
    """Return the text of a message; an empty one beside calls of tools, without which it is no whole answer."""
    return "" if getattr(message, "tool_calls", None) else message.content or ""
