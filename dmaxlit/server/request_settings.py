"""The settings that a request asks for."""

import secrets
from collections.abc import Container
from dataclasses import replace
from typing import Any

from dmaxlit.decoding import DECODERS, Decoder
from dmaxlit.decoding.admission import ADMISSIONS
from dmaxlit.engine.settings import DecodeSettings
from dmaxlit.server.errors import bad_request
from dmaxlit.server.limits import Limits
from dmaxlit.server.protocol import ChatBody, DecodeBody
from dmaxlit.server.trial import ForwardSize

_MAX_STOPS, _MAX_STOP_LENGTH = 16, 1000  # texts; characters, as many of a response are searched after each forward
_SEED_BITS = 31
_STEPS_PER_TOKEN, _MORE_STEPS = 2, 16  # forwards of a block: no decoder of ours takes more by default


def settings_of(body: DecodeBody, defaults: DecodeSettings, limits: Limits) -> DecodeSettings:
    """Return the settings of a request: its own, and the server's for what it does not name.

    Without ``seed`` each request is sampled with a random one.

    Args:
        body: The request.
        defaults: The server's settings.
        limits: Of the server.

    Raises:
        ApiError: If it asks for more than the limits allow, or for a decoder or policy that is not registered.
    """
    names = ("temperature", "top_p", "window", "max_forwards")
    changes: dict[str, Any] = {name: value for name in names if (value := getattr(body, name)) is not None}
    changes |= _by_name("decoder", DECODERS, body, defaults) | _by_name("admission", ADMISSIONS, body, defaults)
    changes["stop"] = _stops(body)
    changes["max_new_tokens"] = _budget(body, defaults, limits)
    changes["seed"] = secrets.randbits(_SEED_BITS) if body.seed is None else body.seed
    settings = replace(defaults, **changes)
    if body.admission is None and not body.admission_options:
        settings = settings.without_unused_policy()
    if settings.window > limits.max_window:
        raise bad_request(f"window: expected at most {limits.max_window}, got {settings.window}", "window")
    return settings


def _by_name(kind: str, registry: Container[object], body: DecodeBody, defaults: DecodeSettings) -> dict[str, Any]:
    """Return name and options of the decoder or policy; the server's options are those of its own one."""
    name, options = getattr(body, kind), getattr(body, f"{kind}_options") or {}
    server_name, server_options = getattr(defaults, kind), getattr(defaults, f"{kind}_options")
    if name is None or name == server_name:
        return {f"{kind}_options": {**server_options, **options}}
    if name not in registry:  # an import path would run code of the client's choice
        raise bad_request(f"{kind}: expected a registered name, got {name!r}", kind)
    return {kind: name, f"{kind}_options": options}


def _stops(body: DecodeBody) -> list[str]:
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    if len(stops) > _MAX_STOPS:
        raise bad_request(f"stop: expected at most {_MAX_STOPS} texts, got {len(stops)}", "stop")
    if (longest := max(map(len, stops), default=0)) > _MAX_STOP_LENGTH:
        raise bad_request(f"stop: expected at most {_MAX_STOP_LENGTH} characters in a text, got {longest}", "stop")
    return stops


def _budget(body: DecodeBody, defaults: DecodeSettings, limits: Limits) -> int:
    wanted, field = body.max_tokens, "max_tokens"
    if wanted is None and isinstance(body, ChatBody) and body.max_completion_tokens is not None:
        wanted, field = body.max_completion_tokens, "max_completion_tokens"
    if limits.max_tokens is None:
        return defaults.max_new_tokens if wanted is None else wanted
    if wanted is None:
        return min(defaults.max_new_tokens, limits.max_tokens)
    if wanted > limits.max_tokens:
        raise bad_request(f"{field}: expected at most {limits.max_tokens}, got {wanted}", field)
    return wanted


def check_steps(decoder: Decoder, block_length: int, own: int) -> None:
    """Refuse a decoder that may spend far more forwards on a block than any does by default.

    Without this bound a response of few tokens could hold its place until the server's time limit.

    Args:
        decoder: The decoder that the request asks for.
        block_length: Tokens of a block.
        own: Most forwards for one block of the decoder that the server was started with, which is granted to all.

    Raises:
        ApiError: If so.
    """
    most = max(max(_STEPS_PER_TOKEN, decoder.max_steps_per_token) * block_length + _MORE_STEPS, own)
    steps = decoder.max_steps(block_length)
    if steps > most:
        raise bad_request(
            f"decoder_options: expected at most {most} forwards for one block, got {steps}", "decoder_options"
        )


def check_size(size: ForwardSize, limits: Limits, own: ForwardSize) -> None:
    """Refuse a decoder that makes a forward far larger than that of a block of tokens; all requests wait for it.

    Args:
        size: What the decoder that the request asks for makes of a forward.
        limits: Of the server.
        own: What the decoder makes of it that the server was started with, which is granted to all.

    Raises:
        ApiError: If so.
    """
    for name, got, limit, granted in (
        ("extra versions of a block", size.extra_blocks, limits.max_extra_blocks, own.extra_blocks),
        ("tokens mixed at a position", size.mixed_tokens, limits.max_mixed_tokens, own.mixed_tokens),
    ):
        most = max(limit, granted)
        if got > most:
            raise bad_request(f"decoder_options: expected at most {most} {name}, got {got}", "decoder_options")
