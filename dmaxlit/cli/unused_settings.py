"""Settings that one way of using a command takes and another has no use for."""

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any


def first_given(
    command: Callable[..., None], arguments: Mapping[str, Any], without: Collection[str]
) -> tuple[str, Any] | None:
    """Return the first setting that differs from its default, and its value; None if there is none.

    Args:
        command: The function of the command, whose defaults tell what the user has set.
        arguments: What it was called with; more may be in it.
        without: Settings that are of use.
    """
    for name, parameter in inspect.signature(command).parameters.items():
        if name not in without and arguments[name] not in (parameter.default, None, {}, []):
            return name, arguments[name]
    return None
