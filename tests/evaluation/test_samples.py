from dmaxlit.engine import Generation
from dmaxlit.evaluation.samples import Sample, samples_text
from dmaxlit.tasks import Example


def sample(text, right=True, answer="4", finished=True, hit_step_limit=0):
    example = Example("1 +3 ?", answer, lambda _: right)
    return Sample(example, Generation([0] * 12, 3, finished, hit_step_limit, "1 +3 ?", text), right)


def test_right_answer():
    assert samples_text([sample("#### 4")]) == (
        "right · 12 tokens in 3 forwards · TPF 4.00\n\nPrompt\n\n    1 +3 ?\n\nAnswer\n\n    #### 4"
    )


def test_wrong_answer_shows_what_was_expected_if_that_is_known():
    assert samples_text([sample("#### 5", right=False)]).endswith("Answer\n\n    #### 5\n\nExpected\n\n    4")
    assert "Expected" not in samples_text([sample("#### 5", right=False, answer="")])


def test_what_went_wrong_is_said():
    first_line = samples_text([sample("", right=False, finished=False, hit_step_limit=2)]).splitlines()[0]
    assert first_line == "**wrong** · 12 tokens in 3 forwards · TPF 4.00 · not finished · 2 blocks hit the step limit"


def test_markdown_in_an_answer_is_left_alone():
    text = samples_text([sample("# no heading\n```\n* no list")])
    assert "    # no heading\n    ```\n    * no list" in text
