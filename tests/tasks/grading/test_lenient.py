import time

import pytest

from dmaxlit.tasks.grading.lenient import LenientNumberGrader
from dmaxlit.tasks.grading.lenient_math import candidates
from dmaxlit.tasks.grading.minerva import minerva_form

GRADER = LenientNumberGrader("He has 2 * 9 = 18.\n#### 18")


@pytest.mark.parametrize(
    ("text", "candidates"),
    [
        ("#### 18", "18"),
        ("The final answer is 20\nbut 18 is nice", "18 or 20"),  # this marked answer runs to the end
        ("5 and 18", "18"),
        ("18\n20", "20 or 18"),
        ("18\n20\n21", "21 or 20"),
        ("Answer: 20\nso \\boxed{18}", "20 or 18"),
        ("Answer: 20\n#### 19\nso \\boxed{18}", "20 or 19"),
        (r"\boxed{36/2} \$", "18"),
        ("it is $1,800.50", "3601/2"),
        ("-18", "-18"),
        ("18\nthis is wrong: 20", "18"),
        ("I give up, 18", None),
        ("I give up\n" + "." * 260 + "\n#### 18", "18"),
        ("none", None),
        ("1/0", None),
        ("<answer>3</answer>\n####\nAnswer: 18", "18 or 3"),
        ("<answer></answer>\nAnswer: 18\nFinal Answer: 4\n\nAnswer: 3", "3 or 18"),  # a blank one does not count
        ("\\boxed{2}\n\\fbox{3}\n\\boxed{18}", "3 or 18"),  # \\fbox comes after all \\boxed
        ("Answer: this is wrong, 20\n18", "18"),
        ("**Answer:** $18$", "18"),
        ("1.5/2 18%", "18"),
    ],
)
def test_the_first_two_candidates_of_the_published_grading(text, candidates):
    assert GRADER.extract(text) == candidates
    assert GRADER(text) == (candidates is not None and "18" in candidates.split(" or "))


def test_a_reference_without_a_number_is_never_met():
    assert not LenientNumberGrader("Yes")("Yes")


def test_long_texts_are_bounded():
    assert not GRADER("\\boxed{" * 50_000)


@pytest.mark.parametrize("marker", ["<answer>", "Final Answer:", "The final answer is 18", "Answer:", "####", "18"])
@pytest.mark.parametrize("run", [" ", "\n", " \n"])
def test_an_answer_that_ends_in_white_space_takes_no_time(marker, run):
    text = marker + run * (18_000 // len(run)) + "x"
    begin = time.process_time()
    GRADER(text)
    for candidate in candidates(text):
        minerva_form(candidate)
    assert time.process_time() - begin < 1


def test_a_long_answer_without_a_formula_takes_no_time():
    begin = time.process_time()
    (whole,) = {minerva_form(one) for one in candidates("Final Answer: " + "so_it_is_18, " * 1500) if len(one) > 10_000}
    assert whole.endswith("so_it_is_18")
    assert time.process_time() - begin < 1


def test_white_space_within_an_answer_does_not_matter():
    gap = " " * 30 + "\n" + " " * 30
    assert GRADER.extract(f"Answer:{gap}5{gap}\n{gap}so 18") == "5 or 18"
    assert candidates(f"Final Answer:{gap}5{gap}\n{gap}Ok")[0] == candidates(f"<answer>{gap}5{gap}</answer>")[0] == "5"


def test_a_number_of_thousands_of_digits_is_none():
    assert GRADER.extract(f"#### 12.{'3' * 4299}\nAnswer: 18") == "18"
