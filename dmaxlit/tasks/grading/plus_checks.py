"""How EvalPlus compares a result with that of its reference solution. It runs in the sandbox, beside the reference."""

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
        return bool(result == expected) if isinstance(result, bool) else (result is not None) == bool(expected)
    if bool(result == expected):
        return True
    floats = expected if isinstance(expected, (list, tuple)) else [expected]
    if atol == 0 and all(isinstance(number, float) for number in floats):
        atol = _ATOL_OF_FLOATS
    return atol != 0 and _close(result, expected, atol)


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
