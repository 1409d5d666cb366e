import pytest

from dmaxlit import UserError
from dmaxlit.engine import Generation
from dmaxlit.evaluation.answer_rows import answer_row, columns_in, kept_columns

ANSWER = Generation([1, 2], 3, True, 1, "p", "r", num_extra_blocks=4, stopped=True)
BARE = answer_row(5, {}, ANSWER, token_ids=[1, 2], correct=True)


def test_columns_are_kept_between_the_index_and_ours():
    extra = {"id": "x", "tags": ["a"], "none": None}
    row = answer_row(5, kept_columns(extra), ANSWER, token_ids=[1, 2], correct=True)
    assert list(row)[:4] == ["index", *extra]
    assert row == {**BARE, **extra}


def test_a_column_with_the_name_of_one_of_ours_gets_another():
    extra = {name: f"theirs, {name}" for name in BARE}
    row = answer_row(5, kept_columns(extra), ANSWER, token_ids=[1, 2], correct=True)
    assert row == {**BARE, **{f"prompt_{name}": value for name, value in extra.items()}}
    assert columns_in(row) == kept_columns(extra)
    assert columns_in(BARE) == {}


def test_a_name_that_is_taken_is_not_given_twice():
    kept = {"prompt_index": 2, "prompt_prompt_index": 1}
    assert kept_columns({"index": 1, "prompt_index": 2}) == kept_columns({"prompt_index": 2, "index": 1}) == kept


def test_a_column_that_is_nested_too_deeply_is_refused():
    value = []
    for _ in range(101):
        value = [value]
    with pytest.raises(UserError, match=r"^column 'deep' is nested too deeply$"):
        kept_columns({"id": 1, "deep": value})
