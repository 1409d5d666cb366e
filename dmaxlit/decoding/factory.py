"""Construction of a decoder, or of another registered kind, from its name and options."""

import inspect
import math
from collections.abc import Iterable
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from dmaxlit.decoding.base import DECODERS, Decoder
from dmaxlit.errors import UserError
from dmaxlit.registry import Registry

__all__ = ["make_decoder"]


def make_decoder(decoder: str | type[Decoder] | Decoder, **options: Any) -> Decoder:
    """Return a decoder by its registered name, import path or class; a ready decoder is returned unchanged.

    Args:
        decoder: Registered name, import path (``my_file.MyDecoder``), class, or instance.
        options: Options of its constructor; an instance takes none.

    Raises:
        UserError: For an unknown name, an unknown option, or an option of the wrong type or out of range.
    """
    made: Decoder = make_by_name("decoder", DECODERS, Decoder, decoder, options)
    return made


def make_by_name(kind: str, registry: Registry[Any], base: type[Any], value: Any, options: dict[str, Any]) -> Any:
    """Return an object of a registered kind by name, import path or class; a ready one is returned unchanged.

    Args:
        kind: Name of the argument, for messages.
        registry: Registry of the kind.
        base: Its base class.
        value: Registered name, import path, class, or instance.
        options: Options of the constructor; an instance takes none.

    Raises:
        UserError: As :func:`make_decoder`.
    """
    if isinstance(value, base):
        if options:
            raise UserError(f"{kind} options: expected none for a ready {type(value).__name__}, got {_join(options)}")
        return value
    cls = registry.get(value) if isinstance(value, str) else value
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(cls.__abstractmethods__))
        raise UserError(f"{kind}: expected a class that implements {missing}, got {cls.__name__}")
    parameters = inspect.signature(cls).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]
    unknown = [name for name in options if name not in known]
    if unknown and len(known) == len(parameters):
        name = registry.name_of(cls) or cls.__name__
        raise UserError(f"{kind} {name!r}: unknown option {_join(unknown)}; known: {_join(known)}")
    hints = get_type_hints(cls.__init__)
    for name, option in options.items():
        if not _matches(option, hints.get(name, Any)):
            raise UserError(f"{name}: expected {_describe(hints[name])}, got {option!r}")
    return cls(**options)


# Not jsonargparse: as a float it accepts nan, inf, None and the text "0.5", its messages span several lines, and its
# parser takes 5 ms to build for every call of `generate`.


def _matches(value: Any, hint: Any) -> bool:
    """Check a value against a plain type, union or literal; other hints are left to the decoder itself."""
    if isinstance(hint, UnionType) or get_origin(hint) is Union:
        return any(_matches(value, member) for member in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return hint is Any or not isinstance(hint, type) or isinstance(value, hint)


def _describe(hint: Any) -> str:
    if isinstance(hint, UnionType) or get_origin(hint) is Union:
        return " or ".join(_describe(member) for member in get_args(hint))
    if get_origin(hint) is Literal:
        *others, last = map(repr, get_args(hint))
        return f"{', '.join(others)} or {last}" if others else last
    return "none" if hint is type(None) else str(getattr(hint, "__name__", hint))


def _join(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
