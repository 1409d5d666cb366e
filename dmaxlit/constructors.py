"""The options of a class: the arguments of its constructor, and of those that it passes further options on to."""

import inspect
from collections.abc import Callable, Iterator
from inspect import Parameter
from typing import Any

_OTHERS = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


def constructors(cls: type[Any]) -> Iterator[Callable[..., None]]:
    """Yield the constructor of a class and, as long as the last one takes ``**options``, that of the next base class.

    Args:
        cls: The class.
    """
    for one in cls.__mro__[:-1]:  # without object
        if "__init__" in vars(one):
            constructor = vars(one)["__init__"]
            yield constructor
            if not takes_others(constructor):
                return


def constructor_options(cls: type[Any]) -> dict[str, Parameter]:
    """Return the options of a class by name, its own before those that it passes on.

    Args:
        cls: The class.
    """
    options: dict[str, Parameter] = {}
    for constructor in constructors(cls):
        _, *parameters = inspect.signature(constructor).parameters.values()  # without self
        for one in parameters:
            if one.kind not in _OTHERS:
                options.setdefault(one.name, one)
    return options


def takes_others(constructor: Callable[..., Any]) -> bool:
    """Return whether a constructor, or a class, takes ``**options``.

    Args:
        constructor: The constructor.
    """
    return any(one.kind is Parameter.VAR_KEYWORD for one in inspect.signature(constructor).parameters.values())
