"""Admission by progress: the share of decided positions of the response, compared with a threshold."""

import pytest

from dmaxlit import UserError
from dmaxlit.decoding.admission import ProgressAdmission
from tests.decoding.admission.states import block, rows


def admits(after: str, **options: float) -> bool:
    state = block(after)
    return ProgressAdmission(**options).admit(state, state).tolist() == [True]


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ("_ _ _ _ _", False),
        ("1 2 _ _ _", False),
        ("1 2 3 _ _", True),  # exactly the published 0.6
        ("1 2 3 4 5", True),
        ("p p 1 2 _", True),  # two of three: tokens of the prompt are neither decided nor undecided
        ("p p 1 _ _", False),
        ("p p p p p", True),  # nothing is left to decide
    ],
)
def test_enough_of_the_response_is_decided(after, expected):
    assert admits(after) == expected


def test_the_ends_of_the_threshold():
    assert admits("_ _ _ _", theta=0.0)
    assert admits("1 2 3 4", theta=1.0)
    assert not admits("1 2 3 _", theta=1.0)


def test_the_answer_is_that_of_the_block_after_the_step_for_each_row():
    before, after = rows("_ _ _ _", "1 2 3 4"), rows("1 2 3 4", "_ _ _ _")
    assert ProgressAdmission().admit(before, after).tolist() == [True, False]


def test_a_share_is_expected():
    with pytest.raises(UserError, match="theta: expected"):
        ProgressAdmission(theta=-0.1)
