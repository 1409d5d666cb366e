"""From a decoder's name and options to the decoder."""

import inspect
import math
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from dmaxlit.decoding.base import DECODERS, Decoder
from dmaxlit.errors import UserError

__all__ = ["make_decoder"]


def make_decoder(decoder: str | type[Decoder] | Decoder, **options: Any) -> Decoder:
    """A decoder by its registered name or class, or one that exists already.

    Args:
        decoder: Registered name, class, or instance.
        options: Options of its constructor; an instance takes none.

    Raises:
        UserError: For an unknown name, an unknown option, or an option out of range.
    """
    if isinstance(decoder, Decoder):
        if options:
            raise UserError(
                f"decoder options: expected none beside a ready {type(decoder).__name__}, got {_names(options)}"
            )
        return decoder
    cls = DECODERS.get(decoder) if isinstance(decoder, str) else decoder
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(cls.__abstractmethods__))
        raise UserError(f"decoder: expected a class with its own {missing}, got {cls.__name__}, which has none")
    parameters = inspect.signature(cls).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]
    unknown = [name for name in options if name not in known]
    if unknown and len(known) == len(parameters):
        name = DECODERS.name_of(cls) or cls.__name__
        raise UserError(f"decoder {name!r}: unknown option {_names(unknown)}; known: {_names(known)}")
    hints = get_type_hints(cls.__init__)
    for name, value in options.items():
        if not _fits(value, hints.get(name, Any)):
            raise UserError(f"{name}: expected {_spelled(hints[name])}, got {value!r}")
    return cls(**options)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain value is of a plain type; what is not plain is left to the decoder itself."""
    if isinstance(hint, UnionType) or get_origin(hint) is Union:
        return any(_fits(value, one) for one in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return hint is Any or not isinstance(hint, type) or isinstance(value, hint)


def _spelled(hint: Any) -> str:
    if isinstance(hint, UnionType) or get_origin(hint) is Union:
        return " or ".join(_spelled(one) for one in get_args(hint))
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    return "none" if hint is type(None) else str(getattr(hint, "__name__", hint))


def _names(names: Any) -> str:
    return ", ".join(names) or "none"
