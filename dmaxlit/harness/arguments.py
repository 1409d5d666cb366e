"""Checks of what lm-evaluation-harness passes to the model."""

import inspect
import os
from collections.abc import Callable, Iterable
from typing import Any

from dmaxlit.constructors import constructor_options
from dmaxlit.decoding import DECODERS
from dmaxlit.errors import UserError, check_at_least
from dmaxlit.harness.generation_settings import whole_number

_AUTO_BATCH_SIZE = 64


def check_names(model: Callable[..., Any], decoder: str, options: Iterable[str]) -> None:
    """Refuse arguments that are neither the model's nor options of its decoder.

    Args:
        model: The model's constructor, which takes the options as ``**``.
        decoder: Registered name of the decoder.
        options: Names of what it received as options.

    Raises:
        UserError: For the first such name, or if there is no such decoder.
    """
    known = constructor_options(DECODERS.get(decoder))
    own = [name for name, value in inspect.signature(model).parameters.items() if value.kind != value.VAR_KEYWORD]
    for name in options:
        if name not in known:
            raise UserError(
                f"model_args: expected {', '.join(own)}, or an option of decoder {decoder!r} "
                f"({', '.join(known) or 'none'}), got {name!r}"
            )


def check_single_process() -> None:
    """Refuse to be one of several processes, each of which would answer all requests and write all results.

    Raises:
        UserError: If a launcher says that there are several.
    """
    if os.environ.get("WORLD_SIZE", "1") not in ("", "1"):
        raise UserError(
            f"lm_eval: expected one process on one device, got WORLD_SIZE={os.environ['WORLD_SIZE']} of torchrun or "
            "accelerate; `dmaxlit evaluate --devices` answers on several"
        )


def requests_per_forward(value: int | str | None) -> int:
    """Return the number of requests that share a forward.

    Args:
        value: A number, or ``auto`` with whatever lm-eval has after it; None for 64, as ``auto``.

    Raises:
        UserError: If it is something else.
    """
    if value is None or (isinstance(value, str) and value.startswith("auto")):
        return _AUTO_BATCH_SIZE
    if isinstance(value, bool) or not str(value).isdecimal() or int(value) < 1:
        raise UserError(f"batch_size: expected a number of at least 1 or auto, got {value!r}")
    return int(value)


def check_whole(least: int, **settings: Any) -> None:
    """Refuse settings that are no whole number of at least ``least``; None passes.

    Raises:
        UserError: For the first that is none.
    """
    for name, value in settings.items():
        if value is not None:
            whole_number(name, value)
    check_at_least(least, **settings)
