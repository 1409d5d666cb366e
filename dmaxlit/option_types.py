"""The options by which a class is made: those that it needs, and their types by its constructor's annotations.

Options that a constructor passes on (``**options``) are those of the next one (:mod:`dmaxlit.constructors`).
"""

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from dmaxlit.constructors import constructor_options, constructors
from dmaxlit.errors import UserError

_INT64 = 2**63  # what tensors cannot hold


def check_option_types(cls: type[Any], options: Mapping[str, Any]) -> None:
    """Refuse options of another type than the constructor of a class is annotated with, and integers of over 64 bits.

    Args:
        cls: The class.
        options: Options of its constructor.

    Raises:
        UserError: For the first option of a wrong type.
    """
    hints: dict[str, Any] = {}
    for constructor in constructors(cls):
        with suppress(NameError):  # of names that its module imports for type checkers only
            hints = get_type_hints(constructor) | hints
    for name, value in options.items():
        if not _matches(value, hints.get(name, Any)):
            is_large = isinstance(value, int) and not -_INT64 <= value < _INT64  # and perhaps too long to be printed
            got = "a number beyond 64 bits" if is_large else repr(value)
            raise UserError(f"{name}: expected {_describe(hints[name])}, got {got}")


def missing_options(cls: type[Any], options: Iterable[str]) -> list[str]:
    """Return the options without a default that are not among those given.

    Args:
        cls: The class.
        options: Names of the given options.
    """
    parameters = constructor_options(cls).items()
    return [name for name, one in parameters if one.default is one.empty and name not in options]


# Not jsonargparse: as a float it accepts nan, inf, None and the text "0.5", its messages span several lines, and its
# parser takes 5 ms to build for every call of `generate`.


def _matches(value: Any, hint: Any) -> bool:
    """Check a value against a plain type, dict, union or literal; other hints are left to the class itself."""
    if isinstance(hint, UnionType) or get_origin(hint) is Union:
        return any(_matches(value, member) for member in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is dict:
        key, content = get_args(hint)
        return isinstance(value, dict) and all(_matches(k, key) and _matches(v, content) for k, v in value.items())
    if hint is float:
        return _matches(value, int) or (isinstance(value, float) and math.isfinite(value))
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and -_INT64 <= value < _INT64
    return hint is Any or not isinstance(hint, type) or isinstance(value, hint)


def _describe(hint: Any) -> str:
    if isinstance(hint, UnionType) or get_origin(hint) is Union:
        return " or ".join(_describe(member) for member in get_args(hint))
    if get_origin(hint) is Literal:
        *others, last = map(repr, get_args(hint))
        return f"{', '.join(others)} or {last}" if others else last
    if get_origin(hint) is dict:
        key, content = map(_describe, get_args(hint))
        return f"a mapping from {key} to {content}"
    return "none" if hint is type(None) else str(getattr(hint, "__name__", hint))
