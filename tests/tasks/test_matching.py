import time
from decimal import Decimal

import pytest

from dmaxlit.errors import UserError
from dmaxlit.tasks.matching import answer_part, extracted, is_compound, last_number, matches


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("7", "7"),
        ("the answer is 7.", "7"),
        ("3 and then 12", "12"),
        ("1,234", "1234"),
        ("$1,234,567.50 in all", "1234567.5"),
        ("1,2,3", "3"),
        ("-3", "-3"),
        ("x = -3.25!", "-3.25"),
        ("5 - 3", "3"),
        ("3-5", "5"),
        ("(2)-5", "5"),
        ("\N{MINUS SIGN}8", "-8"),
        ("+4", "4"),
        (".5", "0.5"),
        ("-.5", "-0.5"),
        ("0.50", "0.5"),
        ("2e3", "2000"),
        ("1.5E-2", "0.015"),
        ("12345678901234567890", "12345678901234567890"),
        ("72% of them", "72"),
        ("x2", "2"),
        ("work 99 #### 72", "72"),
        ("#### 5 #### 1,000 apples and 3 pears", "1000"),
        ("####-7", "-7"),
        ("2023-11", "11"),
    ],
)
def test_the_number_a_text_ends_on(text, number):
    assert last_number(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "none", "99 ####", "-", ".", ","])
def test_no_number(text):
    assert last_number(text) is None


def test_numeric_match_compares_values_not_spelling():
    assert matches("numeric", "1,000", "it is 1000.00")
    assert not matches("numeric", "1,000", "it is 100")
    assert not matches("numeric", "3", "-3")
    assert not matches("numeric", "no", "no")


def test_exact_match_compares_words():
    assert matches("exact", "a b", " a\n b ")
    assert not matches("exact", "a b", "a B")
    assert not matches("exact", "7", "7.0")


def test_unknown_match_is_refused():
    with pytest.raises(UserError, match="match: expected 'exact' or 'numeric', got 'fuzzy'"):
        matches("fuzzy", "a", "a")


def test_answer_part():
    assert answer_part("a #### b #### c") == " c"
    assert answer_part("abc") == "abc"


@pytest.mark.parametrize(
    ("match", "text", "expected"),
    [
        ("exact", " a  b\n", "a b"),
        ("exact", " ", None),
        ("numeric", "3 and 1,234.50.", "1234.50"),
        ("numeric", "none", None),
    ],
)
def test_what_is_extracted_is_what_is_compared(match, text, expected):
    assert extracted(match, text) == expected
    assert matches(match, "7" if expected is None else expected, text) is (expected is not None)


@pytest.mark.parametrize(
    ("text", "compound"),
    [
        *((text, True) for text in ("1/2", "2:3", "It is 2 x 10^3.", "3 1/2", "10:30", "#### 3/4", r"10^{3}")),
        *((text, False) for text in ("7", "1,234.50", "48/2 = 24", "48/2 = 24 #### 72", "-3", "at 10:30 there are 4")),
    ],
)
def test_a_number_may_be_a_part_of_something_else(text, compound):
    assert is_compound(text) is compound


def test_a_text_that_ends_in_thousands_of_dots_takes_no_time():
    begin = time.process_time()
    assert not is_compound("1/2" + "." * 20_000 + "x")
    assert time.process_time() - begin < 1
