"""Whether a scorer of another library evaluates text as code, and such a scorer that does not."""

import inspect
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType, SimpleNamespace
from typing import Any

from dmaxlit.tasks.safe_evaluation import arithmetic, literal

#: Functions that evaluate a text they receive; sympy's parsers are among them.
_EVALUATORS = frozenset({"__import__", "compile", "eval", "exec", "parse_expr", "sympify"})


def evaluators_in(method: FunctionType, cls: type) -> set[str]:
    """Return the names of functions that evaluate text, of those that a method can call.

    Only names are looked at, so a call may be harmless; functions and methods of the same library are followed.

    Args:
        method: The method.
        cls: Its class, in which the methods it calls are looked up.
    """
    library = method.__module__.partition(".")[0]
    pending, visited, found = [method], set(), set()
    while pending:
        function = pending.pop()
        if function in visited:
            continue
        visited.add(function)
        for name in _names(function.__code__):
            target = function.__globals__.get(name) or inspect.getattr_static(cls, name, None)
            target = target.__func__ if isinstance(target, (staticmethod, classmethod)) else target
            if isinstance(target, FunctionType) and target.__module__.partition(".")[0] == library:
                pending.append(target)
            elif name in _EVALUATORS:
                found.add(name)
    return found


def without_evaluation(method: FunctionType) -> FunctionType:
    """Return a copy of a method that reads texts instead of evaluating them.

    In it, ``eval`` takes literals only, and sympy's ``parse_expr`` arithmetic only. Functions that it calls stay as
    they are.

    Args:
        method: The method. Of sympy it uses no more than that function.
    """
    own: dict[str, Any] = {"eval": literal, "parse_expr": arithmetic}
    for name, value in method.__globals__.items():
        if isinstance(value, ModuleType) and value.__name__ == "sympy":
            own[name] = SimpleNamespace(parse_expr=arithmetic)
    names = {**method.__globals__, **own}
    return FunctionType(method.__code__, names, method.__name__, method.__defaults__, method.__closure__)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
