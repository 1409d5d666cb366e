"""Admission by progress that restarts what was written behind revised tokens."""

from dataclasses import replace

import pytest
import torch

from dmaxlit import UserError
from dmaxlit.decoding.admission import ProgressAdmission, RestartingAdmission
from tests.decoding.admission.states import block, rows


def restarts(before: str, after: str, **options: float) -> bool:
    return RestartingAdmission(**options).restarts_behind(block(before), block(after)).tolist() == [True]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("1 2 3 4", "1 2 3 4", False),
        ("1 2 3 4", "1 5 3 4", False),  # exactly a quarter
        ("1 2 3 4", "5 6 3 4", True),
        ("_ _ _ _", "1 2 3 4", False),  # masks were not read
        ("1 2 _ _", "5 6 3 4", True),
        ("1 2 3 4", "_ _ 3 4", True),  # tokens that are masked again
        ("p p 1 2", "p p 3 2", True),  # half of the response
        ("p p p p", "p p p p", False),
    ],
)
def test_more_than_a_share_of_the_tokens_that_were_read_changed(before, after, expected):
    assert restarts(before, after, tau_restart=0.25) == expected


def test_the_ends_of_the_share():
    assert restarts("1 2 3 4", "1 2 3 5", tau_restart=0.0)
    assert not restarts("1 2 3 4", "1 2 3 4", tau_restart=0.0)
    assert not restarts("1 2 3 4", "5 6 7 8", tau_restart=1.0)


def test_a_masked_position_changed_whatever_its_id():
    before = block("1 2 3 4")
    after = replace(before, masked=torch.tensor([[True, True, False, False]]))
    assert RestartingAdmission().restarts_behind(before, after).tolist() == [True]


def test_each_row_is_judged_by_itself_and_admits_by_progress():
    before, after = rows("1 2 3 4", "1 2 3 4"), rows("5 6 7 8", "1 2 3 _")
    policy = RestartingAdmission(theta=0.8)
    assert policy.restarts_behind(before, after).tolist() == [True, True]
    assert policy.admit(before, after).tolist() == ProgressAdmission(0.8).admit(before, after).tolist()
    assert not policy.closes_together


def test_other_policies_restart_nothing():
    state = block("1 2 3 4")
    assert ProgressAdmission().restarts_behind(state, state) is None
    assert ProgressAdmission().closes_together


def test_a_share_is_expected():
    with pytest.raises(UserError, match="tau_restart: expected"):
        RestartingAdmission(tau_restart=1.5)
