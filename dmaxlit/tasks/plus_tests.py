"""Tests of EvalPlus: a sample has to agree with the reference solution on many inputs."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dmaxlit.errors import describe_value
from dmaxlit.tasks.grading import plus_checks

_CHECKS = Path(plus_checks.__file__)
_TESTS = """
for _arguments in _inputs:
    try:
        _expected = _reference(*_copied(_arguments))
    except MemoryError:
        continue
    if not _is_small(_expected):
        continue
    _result = {entry_point}(*_copied(_arguments))
    assert _agrees({entry_point!r}, _arguments, _result, _expected, {atol!r}), (
        f"{entry_point} of {{repr(_arguments)[:200]}} is {{repr(_expected)[:100]}}, not {{repr(_result)[:100]}}"
    )
"""
_PREAMBLE = """
_checks, _solution = {{"__name__": "checks"}}, {{"__name__": "solution"}}
exec({checks!r}, _checks)
exec({solution!r}, _solution)
_agrees, _is_small, _reference = _checks["agrees"], _checks["is_small"], _solution[{entry_point!r}]
from copy import deepcopy as _copied
from math import inf, nan
_inputs = {inputs!r}
"""


def plus_tests(entry_point: str, solution: str, inputs: list[Any], atol: float) -> tuple[str, str]:
    """Return the preamble and the tests that compare a function with the reference solution.

    An input for which the reference's result does not fit into memory, or into a message, is left out.

    Args:
        entry_point: Name of the function.
        solution: Code of the reference solution.
        inputs: Lists of arguments.
        atol: Absolute tolerance of numbers.
    """
    checks = _CHECKS.read_text(encoding="utf-8")
    preamble = _PREAMBLE.format(checks=checks, solution=solution, entry_point=entry_point, inputs=inputs)
    return preamble, _TESTS.format(entry_point=entry_point, atol=atol)


def plus_inputs(row: Mapping[str, Any], number: int) -> list[Any]:
    """Return the arguments of all calls, with the types that JSON does not have.

    Args:
        row: A row of EvalPlus, with ``base_input`` and ``plus_input``.
        number: The number of the problem in MBPP; 0 for HumanEval, whose arguments are plain JSON.

    Raises:
        ValueError: If there are no such lists.
    """
    inputs = []
    for column in ("base_input", "plus_input"):
        values = row.get(column)
        values = [] if values == {} else values  # so EvalPlus writes no inputs
        if not isinstance(values, list) or not all(isinstance(value, list) for value in values):
            raise ValueError(f"expected a list of arguments in column {column}, got {describe_value(values)}")
        inputs += values
    convert = _converter(number)
    return [convert(arguments) for arguments in inputs]


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _deep_tuple(value: Any) -> Any:
    return tuple(map(_deep_tuple, value)) if isinstance(value, list) else value


def _tuples(value: list[Any]) -> list[Any]:
    return [_tuple(item) for item in value]


def _first(convert: Callable[[Any], Any]) -> Callable[[list[Any]], list[Any]]:
    return lambda arguments: [convert(arguments[0]), *arguments[1:]]


# Which problems of MBPP+ take tuples and other types, as EvalPlus converts them.
_CONVERTERS: list[tuple[set[int], Callable[[list[Any]], list[Any]]]] = [
    (
        {2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424, 429, 470, 560, 579, 596, 616, 630, 726, 740, 744, 809},
        _tuples,
    ),
    (
        {63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780},
        lambda arguments: [_tuples(value) for value in arguments],
    ),
    ({75, 413, 444, 753}, _first(_tuples)),
    ({106, 750}, lambda arguments: [arguments[0], _tuple(arguments[1])]),
    ({115}, _first(lambda items: [set(item) if isinstance(item, list) and item else {} for item in items])),
    ({124}, lambda arguments: [float(arguments[0]), complex(arguments[1])]),
    ({250, 405, 446, 617, 720, 763, 808, 307}, _first(_tuple)),
    ({259, 401, 445}, lambda arguments: [tuple(_tuples(value)) for value in arguments]),
    ({278}, _first(lambda items: tuple(_tuples(items)))),
    ({722}, _first(lambda table: {key: _tuple(value) for key, value in table.items()})),
    ({252}, _first(complex)),
    ({580, 615, 791}, lambda arguments: [_deep_tuple(value) for value in arguments]),
]


def _converter(number: int) -> Callable[[list[Any]], list[Any]]:
    return next((convert for numbers, convert in _CONVERTERS if number in numbers), lambda arguments: arguments)
