from math import inf, nan

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
        ([1.0, 2.0 + 1e-9], (1.0, 2.0), 0, True),
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
    assert agrees("check_str", [], "a match", True, 0)
    assert not agrees("check_str", [], None, True, 0)
    assert not agrees("check_str", [], False, True, 0)


def test_the_size_of_a_value_counts_items_of_items():
    assert is_small([[0] * 999_999, {1: [2] * 99}])
    assert not is_small([[0] * 1_000_000] * 2)
