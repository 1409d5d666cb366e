"""Construction of an object of a registered kind from its name and options."""

import inspect
import re
from collections.abc import Iterable
from typing import Any

from dmaxlit.constructors import constructor_options, takes_others
from dmaxlit.errors import UserError, describe_value
from dmaxlit.option_types import check_option_types, missing_options
from dmaxlit.registry import Registry

# What Python says of arguments that do not fit.
_WRONG_CALL = re.compile(
    r"__init__\(\) (got an unexpected|got multiple values for keyword argument '(?P<twice>\w+)'|missing)"
)


def make_by_name(kind: str, registry: Registry[Any], base: type[Any], value: Any, options: dict[str, Any]) -> Any:
    """Return an object of a registered kind by name, import path or class; a ready one is returned unchanged.

    Args:
        kind: Name of the argument, for messages.
        registry: Registry of the kind.
        base: Its base class.
        value: Registered name, import path, class, or instance.
        options: Options of the constructor; an instance takes none.

    Raises:
        UserError: For an unknown name, something that is none of the kind, an unknown option, one that is missing, or
            one of the wrong type or out of range.
    """
    if isinstance(value, base):
        if options:
            raise UserError(f"{kind} options: expected none for a ready {type(value).__name__}, got {_join(options)}")
        return value
    cls = registry.get(value) if isinstance(value, str) else _checked_class(kind, base, value)
    if inspect.isabstract(cls):
        abstract = ", ".join(sorted(cls.__abstractmethods__))
        raise UserError(f"{kind}: expected a class that implements {abstract}, got {cls.__name__}")
    what = f"{kind} {registry.name_of(cls) or cls.__name__!r}"
    refusal = _refusal(what, cls, options)
    if refusal is not None and not takes_others(cls):
        raise UserError(refusal)
    check_option_types(cls, options)
    try:
        return cls(**options)
    except TypeError as error:
        # A constructor that takes **options may use further ones itself, and give the next one what that needs.
        wrong = _WRONG_CALL.search(str(error))
        if wrong is not None and wrong["twice"] in options:
            raise UserError(f"{what}: expected no {wrong['twice']}, which it sets itself, got one") from error
        if wrong is None or refusal is None:
            raise
        raise UserError(refusal) from error


def _refusal(what: str, cls: type[Any], options: Iterable[str]) -> str | None:
    """Return which option is unknown or missing, in one line; None if none seems to be."""
    known = constructor_options(cls)
    if unknown := [name for name in options if name not in known]:
        return f"{what}: unknown option {_join(unknown)}; known: {_join(known)}"
    if missing := missing_options(cls, options):
        return f"{what}: expected the option {missing[0]}, which has no default, got none"
    return None


def _checked_class(kind: str, base: type[Any], value: Any) -> Any:
    if isinstance(value, type) and issubclass(value, base):
        return value
    got = f"class {value.__name__}" if isinstance(value, type) else describe_value(value)
    raise UserError(f"{kind}: expected a name, a {base.__name__} or a subclass of it, got {got}")


def _join(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
