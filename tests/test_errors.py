import math
import pickle

import pytest
import torch

from dmaxlit.errors import (
    DMaxWarning,
    PromptError,
    UserError,
    check_at_least,
    check_choice,
    check_distinct,
    check_fraction,
    check_not_empty,
    describe_value,
    printable,
    reason_of,
    renaming_argument,
)


@pytest.mark.parametrize("value", [0, 0.0, 0.3, 1])
def test_a_fraction_is_returned(value):
    assert check_fraction("tau", value) == value


@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan, math.inf])
def test_what_is_no_fraction_is_refused_by_name(value):
    with pytest.raises(UserError, match=rf"^tau: expected a number in \[0, 1\], got {value}$"):
        check_fraction("tau", value)


def test_the_first_setting_that_is_too_small_is_named_and_none_passes():
    check_at_least(1, rows=1, columns=None)
    with pytest.raises(UserError, match=r"^columns: expected at least 1, got 0$"):
        check_at_least(1, rows=2, columns=0, depth=-1)


def test_lists_need_a_value():
    check_not_empty(seeds=(0,), methods=["uniform"])
    with pytest.raises(UserError, match=r"^methods: expected at least one, got none$"):
        check_not_empty(seeds=(0,), methods=[], sizes=())


def test_lists_name_every_value_once():
    check_distinct(seeds=(0, 1), methods=["uniform"])
    with pytest.raises(UserError, match=r"^methods: expected at least one, got none$"):
        check_distinct(seeds=(0, 1), methods=[])
    with pytest.raises(UserError, match=r"^methods: expected every value once, got 'uniform' more than once$"):
        check_distinct(seeds=(0, 1), methods=["masked", "uniform", "uniform"])


def test_a_choice_is_returned_or_refused_with_the_choices():
    assert check_choice("per", "block", ("sequence", "block", "row")) == "block"
    with pytest.raises(UserError, match=r"^per: expected 'sequence', 'block' or 'row', got 'batch'$"):
        check_choice("per", "batch", ("sequence", "block", "row"))


def test_a_prompt_is_named_by_its_index_also_between_processes():
    error = PromptError(9, "expected less")
    assert isinstance(error, UserError)
    for copy in (error, pickle.loads(pickle.dumps(error))):
        assert (str(copy), copy.index, copy.reason) == ("prompts[9]: expected less", 9, "expected less")


@pytest.mark.parametrize(
    ("message", "renamed"),
    [
        ("pretrained: expected a folder: got none", "model: expected a folder: got none"),
        ("checkpoint: no file", "model: no file"),
        ("checkpoint.every: too few", "checkpoint.every: too few"),
        ("a pretrained: model", "a pretrained: model"),
    ],
)
def test_an_argument_is_named_as_the_user_knows_it(message, renamed):
    with pytest.raises(UserError) as error, renaming_argument("model", "pretrained", "checkpoint"):
        raise UserError(message)
    assert str(error.value) == renamed


def test_a_user_error_is_a_value_error_and_our_warnings_are_of_one_class():
    assert issubclass(UserError, ValueError)
    assert issubclass(DMaxWarning, UserWarning)


@pytest.mark.parametrize(
    ("value", "description"),
    [
        (None, "None"),
        ([1], "a value of type list"),
        (torch.zeros(2, 3, dtype=torch.bool), "bool of shape [2, 3]"),
    ],
)
def test_a_value_is_described_without_its_content(value, description):
    assert describe_value(value) == description


@pytest.mark.parametrize(
    ("error", "with_type", "reason"),
    [
        (ValueError("two\nlines  of \x1b[31m \ud800"), False, r"two lines of \x1b[31m \ud800"),
        (ValueError("one"), True, "ValueError: one"),
        (KeyError("name"), False, "'name' is missing"),
        (KeyError("name"), True, "KeyError: 'name' is missing"),
        (RuntimeError(), False, "RuntimeError"),
        (RuntimeError(" \n"), True, "RuntimeError"),
        (RuntimeError("x" * 301), False, "x" * 300 + "..."),
        (RuntimeError("x" * 300), True, "RuntimeError: " + "x" * 300),
    ],
)
def test_a_reason_is_one_printable_line_of_reasonable_length(error, with_type, reason):
    assert reason_of(error, with_type) == reason
    assert reason.isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("7 + 1 = 8\n\tDone.", "7 + 1 = 8\n\tDone."),
        ("\u00fc\u6f22 \U0001f469\u200d\U0001f680", "\u00fc\u6f22 \U0001f469\u200d\U0001f680"),
        ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
        ("a\rb\x08\x7f", r"a\rb\x08\x7f"),
        ("\x9b2J", r"\x9b2J"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\ud800", r"\ud800"),
        ("pass\u200bword\xad\u2028\ufeff", r"pass\u200bword\xad\u2028\ufeff"),
        ("\U000e0041\u2066", r"\U000e0041\u2066"),
    ],
)
def test_only_what_a_reader_could_not_see_is_escaped(text, shown):
    assert printable(text) == shown
    shown.encode()
