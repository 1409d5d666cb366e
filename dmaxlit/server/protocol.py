"""Requests of OpenAI's API, and the fields that dmaxlit adds to them."""

import reprlib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

_NOTHING: tuple[Any, ...] = (None, [], {}, "", False)
# Fields of which we know nothing to do but what is done without them, with the values that say so.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "audio": _NOTHING,
    "best_of": (None, 1),
    "echo": _NOTHING,
    "frequency_penalty": (None, 0),
    "function_call": (None, "none"),
    "functions": _NOTHING,
    "logit_bias": _NOTHING,
    "logprobs": (None, False),
    "modalities": (None, ["text"]),
    "parallel_tool_calls": (None, True, False),
    "prediction": _NOTHING,
    "presence_penalty": (None, 0),
    "reasoning_effort": (None, "none"),
    "response_format": (None, {"type": "text"}),
    "service_tier": (None, "auto", "default"),
    "store": (None, False),
    "suffix": _NOTHING,
    "tool_choice": (None, "none", "auto"),
    "tools": _NOTHING,
    "top_logprobs": (None, 0),
    "verbosity": (None,),
    "web_search_options": (None,),
}
_INT64 = 2**63
_MOST_KEYS = 64  # of an object whose wrong keys or values would each be an error of its own
Count = Annotated[int, Field(ge=1, lt=_INT64)]
Texts = Annotated[list[str], Field(fail_fast=True)]  # one error, not one for each of a million items
Ids = Annotated[list[int], Field(fail_fast=True)]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class StreamOptions(_Body):
    """What a stream shows.

    Args:
        include_usage: Send the counts of tokens in a last chunk.
        include_provisional: Send the text of blocks that are not decided yet, as events named ``provisional``.
        include_obfuscation: Of OpenAI's API; only false.
    """

    include_usage: bool = False
    include_provisional: bool = False
    include_obfuscation: Literal[False] = False


class DecodeBody(_Body):
    """The fields that both kinds of requests have. Absent ones are as the server was started.

    Args:
        model: Name of the model.
        max_tokens: Most tokens of each response, EOS included.
        temperature: 0 takes the most probable tokens.
        top_p: In (0, 1].
        seed: Seed of the samples. Response k of a prompt is sampled with ``seed + k``. Absent, it is a random one,
            which the response names.
        stop: Texts that end a response.
        n: Responses to each prompt.
        stream: Send committed text as soon as there is some.
        stream_options: What the stream shows.
        user: Name of the end user; not used.
        metadata: Labels of the request; not used.
        decoder: Registered name of the decoder.
        decoder_options: Its options.
        window: Most open blocks of a response.
        admission: Registered name of the policy of the window.
        admission_options: Its options.
        max_forwards: Most forwards of each response.
        return_token_ids: Whether to return the token ids of prompts and responses; not in a stream.
    """

    model: str | None = None
    max_tokens: Count | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: Annotated[int, Field(ge=-_INT64, lt=_INT64)] | None = None
    stop: str | Texts | None = None
    n: Count | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    decoder: str | None = None
    decoder_options: dict[str, Any] | None = None
    window: Count | None = None
    admission: str | None = None
    admission_options: dict[str, Any] | None = None
    max_forwards: Count | None = None
    return_token_ids: bool = False

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = _NEUTRAL

    @model_validator(mode="before")
    @classmethod
    def _drop_neutral(cls, body: Any) -> Any:
        """Drop fields that ask for nothing we could do; refuse those that do, and objects of very many keys."""
        if not isinstance(body, dict):
            return body
        objects = {"body": body, **{name: body.get(name) for name in ("metadata", "stream_options")}}
        for name, value in objects.items():
            if isinstance(value, dict) and len(value) > _MOST_KEYS:
                raise ValueError(f"{name}: expected at most {_MOST_KEYS} keys, got {len(value)}")
        for name in body.keys() & cls.neutral.keys():
            is_bool = isinstance(body[name], bool)  # which equals 0 or 1
            if not any(body[name] == value and is_bool == isinstance(value, bool) for value in cls.neutral[name]):
                raise ValueError(f"{name}: expected none (it is not supported), got {reprlib.repr(body[name])}")
        return {name: value for name, value in body.items() if name not in cls.neutral}

    @model_validator(mode="after")
    def _check_stream(self) -> "DecodeBody":
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: expected none without stream")
        if self.stream and self.return_token_ids:
            raise ValueError("return_token_ids: expected false with stream")
        return self


class CompletionBody(DecodeBody):
    """A text to continue, or several. No chat template is applied.

    Args:
        prompt: A text, several, or the token ids of one or several.
    """

    prompt: str | Texts | Ids | Annotated[list[Ids], Field(fail_fast=True)]


class ChatBody(DecodeBody):
    """A conversation to continue, through the chat template.

    Args:
        messages: Objects with ``role`` and ``content``.
        max_completion_tokens: Another name of ``max_tokens``.
    """

    messages: Annotated[list[dict[str, Any]], Field(fail_fast=True)]
    max_completion_tokens: Count | None = None

    @model_validator(mode="after")
    def _check_tokens(self) -> "ChatBody":
        if None not in (self.max_tokens, self.max_completion_tokens):
            raise ValueError("max_completion_tokens: expected this or max_tokens, got both")
        return self
