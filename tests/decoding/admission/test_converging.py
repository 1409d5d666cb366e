"""Admission behind a block that only confirms its tokens."""

import pytest

from dmaxlit.decoding.admission import ConvergingAdmission
from tests.decoding.admission.states import block, rows


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ("_ _ _ _", False),
        ("1 2 3 _", False),
        ("1 2 3 4", True),
        ("p p 3 _", False),
        ("p p 3 4", True),
        ("p p p p", True),
    ],
)
def test_no_mask_is_left_after_the_step(after, expected):
    assert ConvergingAdmission().admit(block("_ _ _ _"), block(after)).tolist() == [expected]


def test_the_block_before_the_step_does_not_matter():
    before, after = rows("1 2", "_ _"), rows("_ 2", "1 2")
    assert ConvergingAdmission().admit(before, after).tolist() == [False, True]
