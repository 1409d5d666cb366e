"""MultiBD's admission: enough is decided, and enough of what the model read came back unchanged."""

from dataclasses import replace

import pytest
import torch

from dmaxlit import UserError
from dmaxlit.decoding.admission import MultiBDAdmission
from tests.decoding.admission.states import block, rows


def admits(before: str, after: str, tau_add: float = 0.1, tau_stable: float = 0.5) -> bool:
    return MultiBDAdmission(tau_add, tau_stable).admit(block(before), block(after)).tolist() == [True]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("1 2 _ _", "1 2 3 _", True),
        ("1 2 _ _", "1 5 3 _", True),  # exactly half of the two that were read
        ("1 2 _ _", "4 5 3 _", False),
        ("1 2 3 _", "1 5 6 _", False),  # a third
        ("1 2 _ _", "1 _ 3 _", True),
        ("1 2 _ _", "_ _ 3 _", False),  # a token that is masked again did not come back
    ],
)
def test_the_same_token_ratio_is_of_the_tokens_that_were_read(before, after, expected):
    assert admits(before, after, tau_add=0.0) == expected


def test_a_masked_position_did_not_come_back_whatever_its_id():
    before = block("1 2 3 4")
    after = replace(before, masked=torch.tensor([[True, True, True, False]]))
    assert MultiBDAdmission().admit(before, after).tolist() == [False]


def test_where_nothing_was_read_yet_progress_alone_decides():
    assert admits("_ _ _ _", "1 _ _ _", tau_add=0.25, tau_stable=1.0)
    assert not admits("_ _ _ _", "1 _ _ _", tau_add=0.3, tau_stable=0.0)


def test_exactly_the_share_to_decide_is_enough():
    before, after = "_ " * 10, "1" + " _" * 9
    assert admits(before, after)  # the published 0.1
    assert not admits(before, "_ " * 10)


def test_tokens_of_the_prompt_count_for_neither_share():
    assert admits("p p p p", "p p p p", tau_add=1.0, tau_stable=1.0)
    assert not admits("p p 1 _", "p p 2 _", tau_add=0.0)
    assert not admits("p p _ _", "p p _ _", tau_add=0.5)


def test_each_row_has_an_answer_of_its_own():
    before, after = rows("1 2", "1 2", "_ _"), rows("1 2", "3 4", "_ _")
    assert MultiBDAdmission().admit(before, after).tolist() == [True, False, False]


@pytest.mark.parametrize("name", ["tau_add", "tau_stable"])
def test_shares_are_expected(name):
    with pytest.raises(UserError, match=f"{name}: expected"):
        MultiBDAdmission(**{name: 1.5})
