import math
import random
import re
from math import inf, nan

import numpy as np
import pytest

from dmaxlit.tasks.grading.plus_checks import agrees, is_small


@pytest.mark.parametrize(
    ("result", "expected", "atol", "verdict"),
    [
        (1, 1, 0, True),
        (1, 2, 0, False),
        (0.1 + 0.2, 0.3, 0, True),
        (0.3001, 0.3, 0, False),
        (0.3001, 0.3, 1e-3, True),
        ([1.0, 2.0 + 1e-9], [1.0, 2.0], 0, True),
        ([1.0, 2.0 + 1e-9], (1.0, 2.0), 0, False),  # of another type
        (1, 1.0, 0, True),
        (1, 1.0 + 1e-9, 0, False),  # of another type
        ([], [], 0, True),
        ([1.0], [], 0, False),
        ([1.0], [1.0, 2.0], 0, False),
        ([1, 2 + 1e-9], [1, 2], 0, False),  # whole numbers are compared exactly
        ([[1, 2.0001]], [[1, 2]], 1e-3, True),
        (nan, nan, 0, True),
        (1.0, nan, 0, False),
        (inf, inf, 0, True),
        (1.0, inf, 1e-3, False),
        (1 + 1e-9j, 1 + 0j, 1e-6, True),
        ("0.3", 0.3, 1, False),
        (None, 0.3, 1, False),
        (object(), [1.0], 0, False),
    ],
)
def test_results_are_compared_as_evalplus_does(result, expected, atol, verdict):
    assert agrees("f", [], result, expected, atol) is verdict


def test_some_functions_have_more_than_one_right_result():
    assert agrees("Diff", [], [3, 1], [1, 3], 0)
    assert not agrees("Diff", [], [3], [1, 3], 0)
    assert agrees("find_zero", [[-4, 0, 1]], -2.0, 2.0, 1e-4)
    assert not agrees("find_zero", [[-4, 0, 1]], 1.9, 2.0, 1e-4)
    assert not agrees("find_zero", [[-4, 0, 1]], "2", 2.0, 1e-4)


@pytest.mark.parametrize("name", ["check_str", "text_match_three", "text_starta_endb"])
def test_of_a_match_only_its_existence_is_compared(name):
    """The reference returns a match or None; a sample may return a bool, or anything in place of the match."""
    match = re.match("a", "ab")
    for result, is_match in (("ab", True), (match, True), (0, True), (True, True), (None, False), (False, False)):
        assert agrees(name, ["ab"], result, match, 0) is is_match
        assert agrees(name, ["b"], result, None, 0) is not is_match


def test_the_other_reading_of_two_texts_is_accepted():
    assert agrees("surface_Area", [3, 4], 33, 33, 0)
    slant = math.hypot(1.5, 4)
    assert agrees("surface_Area", [3, 4], round(9 + 4 * 3 * slant / 2), 33, 0)
    assert not agrees("surface_Area", [3, 4], 34, 33, 0)
    assert agrees("digit_distance_nums", [23, 5], 3, 3, 0)  # 2 and 5
    assert agrees("digit_distance_nums", [23, 5], 4, 3, 0)  # 2 and 0, 3 and 5
    assert not agrees("digit_distance_nums", [23, 5], 5, 3, 0)
    assert not agrees("f", [23, 5], 4, 3, 0)


def by_numpy(result, expected, atol):
    """Compare as EvalPlus 0.3 does for other functions, with numpy."""
    exact = result == expected
    numbers = expected if isinstance(expected, (list, tuple)) and expected else [expected]
    if atol == 0 and all(isinstance(number, float) for number in numbers):
        atol = 1e-6
    if exact or atol == 0:
        return exact
    if type(result) is not type(expected) or (isinstance(expected, (list, tuple)) and len(result) != len(expected)):
        return False
    try:
        return bool(np.allclose(result, expected, rtol=1e-7, atol=atol))
    except (TypeError, ValueError):
        return False


def test_random_results_agree_where_numpy_says_so():
    draw = random.Random(0)
    verdicts = []

    def number():
        return draw.choice([draw.randint(-3, 3), draw.uniform(-3, 3), 1e6 * draw.random(), inf])

    def near(value):
        if isinstance(value, (list, tuple)):
            return draw.choice([list, tuple])(map(near, value))
        if type(value) not in (int, float):
            return value
        return draw.choice([value, value, float(value), value + 1e-8, value + 1e-5, value * (1 + 5e-8), -value])

    for _ in range(4000):
        numbers = [number() for _ in range(draw.randint(0, 2))]
        expected = draw.choice(["x", None, True, number(), numbers, tuple(numbers)])
        result, atol = near(expected), draw.choice([0, 0, 1e-4])
        verdicts.append(agrees("f", [], result, expected, atol))
        assert verdicts[-1] is by_numpy(result, expected, atol), (result, expected, atol)
    assert 1000 < sum(verdicts) < 3000


def test_the_size_of_a_value_counts_items_of_items():
    assert is_small([[0] * 999_999, {1: [2] * 99}])
    assert not is_small([[0] * 1_000_000] * 2)
