import pytest

from dmaxlit.bench.answer_texts import (
    answer_texts,
    other_answer,
    rewritten,
    with_other_last_digit,
    with_other_option,
    with_other_sign,
)
from dmaxlit.tasks import Example


def examples(*answers):
    return [Example(f"prompt {i}", answer, lambda text: False) for i, answer in enumerate(answers)]


@pytest.mark.parametrize(
    ("answer", "sign", "digit", "option"),
    [
        ("18", "-18", "19", None),
        ("-19 (apples)", "19 (apples)", "-10 (apples)", None),
        ("0", None, "1", None),
        (r"\frac{1}{2}", r"-\frac{1}{2}", r"\frac{1}{3}", None),
        (r"\text{(B)}", None, None, r"\text{(C)}"),
        ("Yes", None, None, None),
    ],
)
def test_one_error(answer, sign, digit, option):
    assert with_other_sign(answer) == sign
    assert with_other_last_digit(answer) == digit
    assert with_other_option(answer) == option


def test_another_answer_has_other_numbers_or_words():
    assert other_answer(examples("5", "x=5", "5 (km)", "-5"), 0) == "-5"
    assert other_answer(examples("They are equal", "they are Equal", "Yes"), 0) == "Yes"
    assert other_answer(examples("7", "5"), 1) == "7"
    assert other_answer(examples("5", "5"), 0) is None


def test_another_notation():
    assert rewritten(r"\left(\frac12, a+b\right)") == r"\displaystyle (\dfrac12, a + b)"
    assert rewritten("5") == "5"


def test_texts_state_what_verdict_they_have_to_get():
    texts = list(answer_texts(examples("18", "20"), 0))
    assert {text.text for text in texts if text.right} == {
        r"So it is $\boxed{18}$.",
        "That is all.\n#### 18",
        "The answer is 18.",
    }
    wrong = {text.text for text in texts if not text.right}
    assert {"It must be 18.", "The answer is -18.", "The answer is 19.", "The answer is 20."} <= wrong
    assert "#### 18\nNo, the answer is 20." in wrong
    assert len(wrong) == len(texts) - 3
