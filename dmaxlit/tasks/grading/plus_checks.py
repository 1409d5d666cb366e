"""How EvalPlus (0.3) compares a result with that of its reference solution. It runs in the sandbox, beside it."""

from math import sqrt
from typing import Any

_RTOL = 1e-7
_MOST_ITEMS = 2_000_000
_ATOL_OF_FLOATS = 1e-6
# Tasks of MBPP+ whose result is a collection in any order, and those of which only "None or not" is asked.
_ANY_ORDER = frozenset(
    ["similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly"]
    + ["larg_nnum", "intersection_array", "find_dissimilar", "Diff"]
)
_NONE_OR_NOT = frozenset(["check_str", "text_match_three", "text_starta_endb"])


def agrees(entry_point: str, arguments: Any, result: Any, expected: Any, atol: float) -> bool:
    """Return whether a result is as good as the reference's.

    Args:
        entry_point: Name of the function.
        arguments: What it was called with.
        result: What the sample returned.
        expected: What the reference returned.
        atol: Absolute tolerance of numbers; 0 for equality, except between floats.
    """
    if entry_point == "find_zero":  # any root will do
        return type(result) in (int, float) and abs(sum(c * result**i for i, c in enumerate(arguments[0]))) <= atol
    if entry_point in _ANY_ORDER:
        return bool(set(result) == set(expected))
    if entry_point in _NONE_OR_NOT:
        return (result if isinstance(result, bool) else result is not None) == (expected is not None)
    if bool(result == expected):
        return True
    if entry_point in _OTHER_READINGS:
        return bool(result == _OTHER_READINGS[entry_point](*arguments))
    floats = expected if isinstance(expected, (list, tuple)) else [expected]
    if atol == 0 and all(isinstance(number, float) for number in floats):
        atol = _ATOL_OF_FLOATS
    return atol != 0 and type(result) is type(expected) and _close(result, expected, atol)


def _surface_of_pyramid(base: float, height: float) -> int:
    """Return the surface of a square pyramid by its height; the reference takes the slant height."""
    return round(base**2 + 2 * base * sqrt((base / 2) ** 2 + height**2))


def _distance_of_digits(first: int, second: int) -> int:
    """Return the distance with the shorter number filled with zeros; the reference leaves out what is beyond it."""
    width = max(len(str(first)), len(str(second)))
    digits = zip(str(first).zfill(width), str(second).zfill(width), strict=True)
    return sum(abs(int(a) - int(b)) for a, b in digits)


# Tasks of MBPP+ whose text can be read in another way, which EvalPlus accepts too.
_OTHER_READINGS = {"surface_Area": _surface_of_pyramid, "digit_distance_nums": _distance_of_digits}


def is_small(value: Any) -> bool:
    """Return whether a value has at most two million items, those of its items included."""
    pending, count = [value], 0
    while pending:
        item = pending.pop()
        if isinstance(item, (list, tuple, set, dict)):
            count += len(item)
            if count > _MOST_ITEMS:
                return False
            pending += item.values() if isinstance(item, dict) else item
    return True


def _close(result: Any, expected: Any, atol: float) -> bool:
    if isinstance(expected, (list, tuple)):
        return (
            isinstance(result, (list, tuple))
            and len(result) == len(expected)
            and all(_close(*pair, atol) for pair in zip(result, expected, strict=True))
        )
    if not isinstance(result, (int, float, complex)) or not isinstance(expected, (int, float, complex)):
        return bool(result == expected)
    if result != result or expected != expected:  # both or neither are NaN
        return result != result and expected != expected
    return bool(result == expected) or abs(result - expected) <= atol + _RTOL * abs(expected) < float("inf")
