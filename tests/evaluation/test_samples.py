from dmaxlit.engine import Generation
from dmaxlit.evaluation.samples import Sample, sample_rows, samples_text
from dmaxlit.tasks import Example


def sample(text, right=True, answer="4", finished=True, hit_step_limit=0):
    example = Example("1 +3 ?", answer, lambda _: right)
    return Sample(example, Generation([0] * 12, 3, finished, hit_step_limit, "1 +3 ?", text), right)


def test_right_answer():
    assert samples_text([sample("#### 4")], "spd tau_dec=0.5").split("\n\n---\n\n")[1] == (
        "✔ right · 12 tokens in 3 forwards · TPF 4.00\n\nPrompt\n\n    1 +3 ?\n\nAnswer\n\n    #### 4"
    )


def test_wrong_answer_shows_what_was_expected_if_that_is_known():
    assert samples_text([sample("#### 5", right=False)], "spd").endswith("Answer\n\n    #### 5\n\nExpected\n\n    4")
    assert "Expected" not in samples_text([sample("#### 5", right=False, answer="")], "spd")


def test_what_went_wrong_is_said():
    first_line = samples_text([sample("", right=False, finished=False, hit_step_limit=2)], "spd").splitlines()[6]
    assert first_line == "✘ **wrong** · 12 tokens in 3 forwards · TPF 4.00 · not finished · 2 blocks hit the step limit"


def test_markdown_in_an_answer_is_left_alone():
    text = samples_text([sample("# no heading\n```\n* no list")], "spd")
    assert "    # no heading\n    ```\n    * no list" in text


def test_the_head_says_the_decoder_how_many_are_right_and_what_the_figures_mean():
    head = samples_text([sample("#### 4"), sample("#### 5", right=False)], "spd tau_dec=0.5").split("---")[0]
    assert head.startswith("**spd tau_dec=0.5** · 1 of these 2 are right\n\n")
    assert "TPF: tokens per forward" in head


def test_long_lines_are_wrapped_and_nothing_is_lost():
    words = " ".join(f"word{index}" for index in range(60))
    unbroken = "x" * 230
    text = samples_text([sample(f"{words}\n{unbroken}")], "spd").split("Answer\n\n")[1]
    lines = [line.removeprefix("    ") for line in text.splitlines()]
    assert max(map(len, lines)) <= 100
    assert " ".join(lines[:-3]) == words
    assert "".join(lines[-3:]) == unbroken


def test_rows_of_a_table():
    (row,) = sample_rows([sample("#### 5", right=False)], "spd tau_dec=0.5")
    assert (row["decoder"], row["verdict"], row["prompt"], row["answer"], row["expected"]) == (
        "spd tau_dec=0.5",
        "wrong",
        "1 +3 ?",
        "#### 5",
        "4",
    )
    assert (row["tokens"], row["forwards"], row["tpf"]) == (12, 3, 4.0)
