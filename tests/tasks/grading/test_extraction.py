import pytest

from dmaxlit.tasks.grading.extraction import extract_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{5}", "5"),
        (r"\boxed{\frac{1}{2}} it is", r"\frac{1}{2}"),
        (r"\boxed{\left\{1, \{2\}\right\}}", r"\left\{1, \{2\}\right\}"),
        (r"\boxed {a}{b}", "a"),
        (r"\fbox{7}", "7"),
        (r"\boxed{5} and then \boxed{6}", "6"),
        ("work\n#### 42\nmore words", "42"),
        ("#### 1\n#### 2", "2"),
        ("The answer is 18 dollars. So she has 3 left.", "18 dollars"),
        ("The final answer is: Mrs. Hilt.", "Mrs. Hilt"),
        ("the ANSWER  IS **7**", "7**"),
        ("The answer is:\n\\[\n x^2 \n\\]", "x^2"),
        ("The answer is $1.50. I hope it is right", "$1.50"),
        (r"The answer is $\boxed{8}$.", "8"),
        (r"\boxed{8}. The answer is 9", "9"),
        ("#### 3\nThe answer is 4", "4"),
    ],
)
def test_the_last_marker_introduces_the_answer(text, answer):
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        "",
        "42",
        "it must be 42, for 6 * 7 = 42",
        "Answer: 42",
        r"\boxed{",
        r"\boxed{5} so \boxed{6",
        r"\boxed5",
        r"\boxed{}",
        "#### 5\n####",
        "The answer is 5. The answer is",
        "### 5",
        "answers is 5",
        r"\boxed{" + "1" * 5000 + "}",
        "#### " + "1" * 5000,
        r"\boxed{" * 3000,
    ],
)
def test_nothing_else_of_the_text_is_searched(text):
    assert extract_answer(text) is None
