"""Texts of a model as values without running them: literals of Python, and arithmetic."""

import ast
import operator
import re
from collections.abc import Callable
from typing import Any

_LONGEST = 10_000  # characters
_LARGEST_POWER = 10_000  # bits
_HUGE_EXPONENT = re.compile(r"(?<=[\d.])[eE][-+]?[\d_]{4,}")
_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}


def has_huge_exponent(text: str) -> bool:
    """Return whether a text has a number with an exponent of 4 digits or more, which may take forever to compute.

    Commas do not matter, as scorers leave them out.
    """
    return bool(_HUGE_EXPONENT.search(text.replace(",", "")))


def literal(text: str) -> Any:
    """Return the value of a literal: numbers, texts, and lists, tuples, sets and dicts of them.

    Args:
        text: The literal, of at most 10,000 characters.

    Raises:
        ValueError: If it is something else.
    """
    if len(text) > _LONGEST:
        raise ValueError("expected a shorter text")
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError("expected a literal") from error


def arithmetic(text: str) -> Any:
    """Return the expression of sympy that ``sympy.parse_expr`` makes of a text, which evaluates it as code.

    Here it is put together from numbers, variables of one lower-case letter, brackets, ``+``, ``-``, ``*``, ``/`` and
    ``**``; a number to a power may have 10,000 bits, and the exponent of a decimal number 3 digits.

    Args:
        text: The expression, of at most 10,000 characters.

    Raises:
        ValueError: If it holds anything else.
    """
    if len(text) > _LONGEST:
        raise ValueError("expected a shorter text")
    if has_huge_exponent(text):
        raise ValueError("expected a smaller exponent")
    try:
        return _expression(ast.parse(text.strip(), mode="eval").body, text.strip())
    except (SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError("expected arithmetic") from error


def _expression(node: ast.AST, text: str) -> Any:
    import sympy

    match node:
        case ast.Constant(value=int() as value) if not isinstance(value, bool):
            return sympy.Integer(value)
        case ast.Constant(value=float()):
            return sympy.Float(ast.get_source_segment(text, node))  # all digits that are written
        case ast.Name(id=name) if len(name) == 1 and "a" <= name <= "z":
            return sympy.Symbol(name)
        case ast.UnaryOp(op=sign, operand=operand) if type(sign) in _OPERATORS:
            return _OPERATORS[type(sign)](_expression(operand, text))
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _OPERATORS:
            operands = _expression(left, text), _expression(right, text)
            if isinstance(sign, ast.Pow):
                _check_power(*operands)
            return _OPERATORS[type(sign)](*operands)
    raise ValueError(f"expected arithmetic, got {type(node).__name__}")


def _check_power(base: Any, exponent: Any) -> None:
    """Refuse a power that is too large to compute."""
    import sympy

    parts = [int(part) for number in base.atoms(sympy.Rational) for part in (number.p, number.q)]
    bits = max((part.bit_length() for part in parts), default=1)
    if not (exponent.is_number and exponent.is_finite and abs(exponent) * bits <= _LARGEST_POWER):
        raise ValueError("expected a smaller power")
