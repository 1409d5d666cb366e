import random

import pytest

from dmaxlit.tasks.safe_evaluation import arithmetic, has_huge_exponent, literal


@pytest.mark.parametrize("text", ["[[1, 0], [0, 1]]", " ('a', \"b\") ", "-3.5", "{'a': {1, 2}}", "[]", "None"])
def test_literals_have_the_value_of_eval(text):
    assert literal(text) == eval(text.strip())


@pytest.mark.parametrize(
    "text",
    ["", "f()", "[x for x in 'ab']", "a", "1 +", "().__class__", "[1] * 3", "[" * 9_999, "0" * 10_001, "f'{1}'"],
)
def test_what_is_no_literal_is_refused(text):
    with pytest.raises(ValueError, match="expected a"):
        literal(text)


def test_arithmetic_is_the_expression_that_sympy_parses():
    sympy = pytest.importorskip("sympy")
    draw = random.Random(0)

    def expression(depth):
        if depth == 0:
            return draw.choice([str(draw.randint(0, 99)), f"{draw.random():.3f}", "x", "y", "1e3", "0.10", "-z"])
        left, right = expression(depth - 1), expression(draw.randint(0, depth - 1))
        sign = draw.choice(["+", "-", "*", "/", " * "])
        return draw.choice([f"({left}) {sign} ({right})", f"{left}{sign}({right})", f"({left})**{draw.randint(0, 3)}"])

    for _ in range(100):
        text = expression(draw.randint(0, 3))
        assert arithmetic(text) == sympy.parse_expr(text), text


@pytest.mark.parametrize(
    "text",
    ["", "f(1)", "sin(x)", "xy", "X", "x.y", "x[0]", "1 if x else 2", "True", "'a'", "2j", "1 < 2", "2 ^ 3", "5 // 2"]
    + [
        "x**y",
        "9**9**9",
        "2**10001",
        "(2**5000)**3",
        "2**(1/0)",
        "2**(0/0)",
        "(10/3)**9000",
        "1e999999999",
        "2 + 1.E-999_999_999*x",
        "1" * 10_001,
        "5!",
        "(" * 5_000,
    ],
)
def test_what_is_no_arithmetic_or_too_large_is_refused(text):
    pytest.importorskip("sympy")
    with pytest.raises(ValueError, match="expected"):
        arithmetic(text)


@pytest.mark.parametrize(
    ("text", "is_huge"),
    [
        ("1e9999", True),
        ("so 1.E-1234", True),
        ("2/1e+9_999", True),
        ("1e9,9,9,9", True),
        ("1,e9999", True),
        ("1e999", False),
        ("the 2024", False),
        ("made 2024", False),
        ("2e3 1000", False),
    ],
)
def test_exponents_of_four_digits_are_huge(text, is_huge):
    assert has_huge_exponent(text) == is_huge
