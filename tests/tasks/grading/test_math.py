import os
import sys
import time

import pytest

from dmaxlit.errors import UserError
from dmaxlit.tasks.grading import LenientMathGrader, MathGrader
from dmaxlit.tasks.grading import math_equivalence as equivalence
from dmaxlit.tasks.grading.lenient_math import candidates
from dmaxlit.tasks.grading.math import is_same, without_delimiters

pytest.importorskip("math_verify")


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        (r"\frac12", "0.5"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\pi/2)"),
        ("1,-2", "-2, 1"),
        ("x+1", "1+x"),
        (r"11\sqrt2", r"\sqrt{2}\cdot 11"),
        ("10,080", "10080"),
        ("3", "x = 3"),
        (r"\text{Evelyn}", "Evelyn"),
        (r"\text{(B)}", "B"),
        (r"90^\circ", "90"),
        (r"52_8", "52_{8}"),
        (r"52_8", "52"),
        (r"15\mbox{ cm}^2", "15"),
        (r"15\mbox{ cm}^2", r"15 \text{ cm}^{2}"),
        ("90", "90°"),
        ("6,7", r"6 \text{ and } 7"),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 \\ 4/2 \end{pmatrix}"),
    ],
)
def test_equivalent_answers_are_the_same(reference, answer):
    assert is_same(reference, answer)


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        (r"\frac13", "0.333333"),
        ("(1,2)", "(2,1)"),
        ("[0,1]", "(0,1)"),
        ("5", "2, 5"),
        ("5", r"\pm 5"),
        ("5", r"5 \neq 3"),
        (r"\frac{3}{2}", r"\ne \frac{3}{2}"),
        (r"\frac{3}{2}", r"\text{not } \frac{3}{2}"),
        ("5", "≠ 5"),
        ("9", r"9\text{ million}"),
        ("9", r"9\text{k}"),
        (r"9\text{ million}", "9"),
        (r"\frac{14}{3}", r"< \frac{14}{3}"),
        (r"\frac{14}{3}", r"\leq \frac{14}{3}"),
        ("2", r"2 \text{ hours and } 30 \text{ minutes}"),
        ("x+1", "y+1"),
        (r"\text{Evelyn}", r"\text{Briana}"),
        (r"\text{(B)}", "(C)"),
        ("52_8", "52_9"),
        (r"4210_{5}", "4210_{6}"),
        (r"15\mbox{ cm}^2", r"15 \mbox{ cm}^3"),
        ("5", ""),
        ("5", "{" * 50),
        ("5", "5" + " " * 500 + "+ 0"),
    ],
)
def test_other_answers_are_not(reference, answer):
    assert not is_same(reference, answer)


def test_one_answer_is_extracted_and_compared():
    grader = MathGrader(r"\frac{1}{2}")
    assert grader(r"so it is $\boxed{\dfrac{2}{4}}$.")
    assert grader("The answer is $0.5$.")
    assert not grader("$0.5$")
    assert not grader(r"\boxed{0.5} or \boxed{0.6}")
    assert grader.extract("The answer is $0.5$.") == "0.5"
    assert grader.extract("0.5") is None


@pytest.mark.parametrize(
    ("answer", "inner"),
    [("$5$", "5"), ("$$5$$.", "5"), (r"\(5\)", "5"), (r"\[ 5 \]", "5"), ("$5$ or $6$", "$5$ or $6$"), (" 5 ", "5")],
)
def test_delimiters_around_the_whole_answer_are_left_out(answer, inner):
    assert without_delimiters(answer) == inner


def test_a_comparison_that_takes_too_long_is_ended_and_the_next_one_works(monkeypatch):
    equivalence.stop_worker()
    monkeypatch.setattr(equivalence, "_SECONDS", 0.3)
    begin = time.monotonic()
    assert not equivalence.equivalent("5", "9^{9^{9^9}}")
    assert time.monotonic() - begin < 60
    monkeypatch.undo()
    equivalence.stop_worker()
    assert equivalence.equivalent("5", "2+3")


def test_a_worker_that_is_gone_is_replaced():
    assert equivalence.equivalent("5", "2+3")
    process = equivalence._current.process
    process.kill()
    process.wait()
    assert not equivalence.equivalent("5", "2+3")
    assert equivalence.equivalent("5", "2+3")


def test_the_worker_has_bounds_and_none_of_the_environment(monkeypatch):
    if not os.path.exists("/proc/self/limits"):
        pytest.skip("no /proc")
    equivalence.stop_worker()
    monkeypatch.setenv("SECRET_TOKEN", "s3cret")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/libraries")
    assert equivalence.equivalent("5", "2+3")
    folder = f"/proc/{equivalence._current.process.pid}"
    with open(f"{folder}/limits") as file:
        limits = {line[:25].strip(): line[26:].split()[:2] for line in file}
    assert limits["Max file size"] == ["0", "0"]
    assert limits["Max address space"] == [str(2 * 2**30)] * 2
    with open(f"{folder}/environ") as file:
        variables = file.read().split("\0")
    assert "LD_LIBRARY_PATH=/libraries" in variables
    assert not any("s3cret" in variable for variable in variables)


def test_a_missing_library_is_one_line(monkeypatch):
    monkeypatch.setattr(equivalence, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^task 'math500' needs the math-verify library: pip install -e '\.\[math\]'$"):
        equivalence.require_math_verify("math500")


def test_a_library_that_cannot_be_imported_is_found_out_before_an_answer_is_judged(monkeypatch):
    equivalence.stop_worker()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(UserError, match=r"^math-verify: cannot be started; does 'python -c"):
        equivalence.require_math_verify("math500")
    assert equivalence._current.process is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("- 8\nso", ["so", "8", "- 8 so"]),  # as an item of a list, without its sign
        ("**Answer:** $7$", ["7"]),
        (r"#### Answer: \text{(A)}", ["(A)"]),
        (r"\[ \boxed{\dfrac{1}{2}} \]", [r"\frac{1}{2}"]),
        ("$$ $$\n$y = 7$", ["y = 7", "7$", "$ $$ $y = 7"]),
        ("x = -3 = y\n`5`", ["5", "x = -3 = y", "y", "x = -3 = y `5"]),
        ("\\boxed{2}\n\\fbox{3}", ["3", "2", r"\boxed{2} \fbox{3}"]),
        ("\\boxed{8} and a remark that is long enough, of 8", [r"\boxed{8} and a remark that is long enough, of 8"]),
        ("The final answer is 5. I hope it is correct.", ["5"]),
        ("answer", []),
    ],
)
def test_the_candidates_of_the_published_grading(text, found):
    assert candidates(text) == found


def test_lenient_compares_in_the_form_of_minerva():
    assert LenientMathGrader("x = 18")("Answer: $18$ dollars")
    assert LenientMathGrader(r"\frac34")(r"Answer: y=\dfrac{3}{4}")
    assert not LenientMathGrader(r"\frac34")(r"Answer: \dfrac{3}{5}")
    assert not LenientMathGrader("units")("Answer: meters")  # nothing is left of either


def test_lenient_runs_no_candidate():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sympy.sympify", lambda *_: pytest.fail("evaluates its argument"))
        assert not LenientMathGrader("5")("Answer: __import__('os').getpid()")


def test_lenient_takes_up_to_ten_candidates():
    text = "First $x = 4$.\nThen $y = 7$\nso 7 + 1 = 8\nThe final answer is $9$. I hope it is correct."
    assert candidates(text)[:-1] == ["9", "so 7 + 1 = 8", "8", "Then $y = 7$", "7$"]
    assert candidates(text)[-1].startswith("First $x = 4$.")
    assert LenientMathGrader("8")(text)
    assert LenientMathGrader(r"\frac{18}{2}")(text)
    assert not LenientMathGrader("4")(text)
    assert not MathGrader("8")(text)
    long = "The final answer is 5. I hope it is correct. " + "But there is more to be said about it. " * 30
    assert not LenientMathGrader("5")(long)
    assert LenientMathGrader("x").extract(" ") is None


@pytest.mark.parametrize("answer", ["9", r"\frac{1}{2}", r"\$32,\!348", r"x \in [-2,7]", r"\text{Evelyn}"])
@pytest.mark.parametrize(
    "form",
    [
        r"\boxed{%s}",
        r"\boxed{%s.}",
        "#### %s.",
        "#### **%s**",
        "The answer is **%s**.",
        "**The answer is %s.**",
        "The answer is *%s*",
        "The answer is `%s`.",
        "**The answer is %s.** Then it is checked with 5.",
        r"The answer is \[%s\].",
        "The answer is: $$%s$$",
        "The answer is $%s$.",
    ],
)
def test_what_a_text_puts_around_its_answer_does_not_matter(form, answer):
    assert MathGrader(answer)(form % answer)


@pytest.mark.parametrize("answer", ["x_1", "x^*", r"a^{*}", "0.333...", "[1, 2)"])
def test_marks_that_are_part_of_an_answer_stay(answer):
    assert MathGrader("1").extract(rf"\boxed{{{answer}}}") == answer
