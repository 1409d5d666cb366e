"""Construction of an object of a registered kind from its name and options."""

import inspect
from collections.abc import Iterable
from typing import Any

from dmaxlit.errors import UserError, describe_value
from dmaxlit.option_types import check_option_types, missing_options
from dmaxlit.registry import Registry


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
    parameters = inspect.signature(cls).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]
    unknown = [name for name in options if name not in known]
    name = registry.name_of(cls) or cls.__name__
    if unknown and len(known) == len(parameters):
        raise UserError(f"{kind} {name!r}: unknown option {_join(unknown)}; known: {_join(known)}")
    if missing := missing_options(cls, options):
        raise UserError(f"{kind} {name!r}: expected the option {missing[0]}, which has no default, got none")
    check_option_types(cls, options)
    return cls(**options)


def _checked_class(kind: str, base: type[Any], value: Any) -> Any:
    if isinstance(value, type) and issubclass(value, base):
        return value
    got = f"class {value.__name__}" if isinstance(value, type) else describe_value(value)
    raise UserError(f"{kind}: expected a name, a {base.__name__} or a subclass of it, got {got}")


def _join(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
