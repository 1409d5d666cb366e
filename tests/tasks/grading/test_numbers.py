from fractions import Fraction

import pytest

from dmaxlit.tasks.grading import NumberGrader, WordsGrader
from dmaxlit.tasks.grading.numbers import number_of


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("18", 18),
        ("$18", 18),
        (r"\$18 per day", 18),
        ("$18$", 18),
        ("-$5", -5),
        ("- 5", -5),
        ("\N{MINUS SIGN}5", -5),
        ("x = 5", 5),
        ("9 (apples)", 9),
        ("1,234.50", Fraction("1234.5")),
        (r"1{,}000", 1000),
        (r"10,\!000", 10_000),
        ("60%", 60),
        (r"60\%", 60),
        ("5/2", Fraction(5, 2)),
        (r"\frac{5}{2}", Fraction(5, 2)),
        (r"-\dfrac{1}{3}", Fraction(-1, 3)),
        ("-(1/3)", Fraction(-1, 3)),
        (r"8 \text{ cm}^2", 8),
        ("8 cm²", 8),
        ("8 km/hour", 8),
        ("$18/hour", 18),
        ("$20/day.", 20),
        (r"5/\text{day}", 5),
        ("1/2 cup/person", Fraction(1, 2)),
        ("2.5 / month", Fraction(5, 2)),
        (r"45^\circ", 45),
        ("45°", 45),
        ("**7**", 7),
        ("2e3", 2000),
        (".5", Fraction(1, 2)),
        ("5!", 5),
    ],
)
def test_one_number_is_understood_with_its_unit(text, number):
    assert number_of(text) == number


@pytest.mark.parametrize(
    "text",
    [
        "",
        "five",
        "2 or 3",
        "2 (or 3)",
        "1 234",
        "1,23",
        "2^3",
        r"5\pi",
        r"\sqrt{5}",
        "√5",
        "5 million",
        "5 millions",
        "5k",
        "5M",
        "5 bn",
        "not 5",
        "5½",
        "5²",
        "±5",
        r"\pm 5",
        "< 5",
        "3:4",
        "3 + 2",
        "2 1/2",
        "5/0",
        "1/2/3",
        "5/x",
        "5/ pi",
        "5 pi",
        "5/dozen",
        "5/2/day",
        "$5/day or 6",
        "$5/day/2",
        "5/",
        "x2",
        "x^2",
        "5" * 300,
    ],
)
def test_anything_else_is_no_number(text):
    assert number_of(text) is None


def test_numbers_are_compared_exactly_and_in_order():
    one, two = NumberGrader((Fraction("0.1"),)), NumberGrader((Fraction(12), Fraction(8)))
    assert one("#### 0.10")
    assert one("#### 1/10")
    assert not one("#### 0.1000000000000000000001")
    assert not one("0.1")
    assert two("The answer is 12 and 8.")
    assert two("#### 12 (years old); 8 (years old)")
    assert not two("#### 8; 12")
    assert not two("#### 12")
    assert not two("#### 12; 8; 8")
    assert two(r"\boxed{12,8}")
    assert two(r"\boxed{\$12,\$8}")
    assert not two(r"\boxed{8,12}")
    assert not two(r"\boxed{12,8,8}")
    assert not two(r"\boxed{12.8}")
    assert two.extract("#### 12; 8") == "12; 8"


@pytest.mark.parametrize(
    "written", ["1200,-3,45", "1,200,-3 and 45", "$1,200,-3,45", r"1{,}200,-3,45", r"1,\!200;-3,45"]
)
def test_a_comma_before_a_group_of_three_digits_separates_no_numbers(written):
    grader = NumberGrader((Fraction(1200), Fraction(-3), Fraction(45)))
    assert grader(rf"\boxed{{{written}}}")
    assert not grader(rf"\boxed{{{written}0}}")
    assert not NumberGrader((Fraction(1), Fraction(200)))("#### 1,200")
    assert NumberGrader((Fraction(1), Fraction(2000)))("#### 1,2000")


def test_words_are_the_same_up_to_case_and_units():
    assert WordsGrader("Mrs. Hilt")("The answer is **mrs Hilt**.")
    assert WordsGrader("The 60th caller.")("#### 60th caller")
    assert WordsGrader("3:30 p.m.")("#### 3:30 PM")
    assert WordsGrader("3:4")("#### 3 : 4")
    assert WordsGrader("Yes")("The answer is Yes!")
    assert not WordsGrader("2.5:3")("#### 25:3")
    assert not WordsGrader("3:30 p.m.")("#### 3:30 a.m.")
    assert not WordsGrader("Yes")("#### No, yes")
    assert not WordsGrader("Yes")("Yes")
