import pytest

from dmaxlit.errors import UserError
from dmaxlit.tasks import split_of, task

pytest.importorskip("math_verify")
PROBLEMS = [{"problem": f"What is half of ${i}$?", "answer": rf"\frac{{{i}}}{{2}}"} for i in range(1, 9)]
SOLVED = [
    {"problem": f"Double ${i}$.", "solution": rf"\boxed{{0}} no, \boxed{{\frac{{{4 * i}}}{{2}}}}."} for i in range(60)
]


def test_math500_asks_in_the_wording_of_the_template(write_rows):
    path = write_rows(PROBLEMS)
    example = task("math500", path=path).examples("test", 8)[2]
    assert example.prompt == (
        "What is half of $3$?\nLet's think step by step, and put your final answer within \\boxed{}."
    )
    assert example.check(r"\boxed{1.5}")
    assert not example.check(r"1.5")
    assert task("math500", path=path, lenient=True).examples("test", 3)[2].check("1.5")


def test_minerva_algebra_takes_the_last_boxed_answer_of_the_solution(write_rows):
    path, train = write_rows(SOLVED[:5]), write_rows(SOLVED, "train.jsonl")
    algebra = task("minerva_algebra", path=path, train=train, template="few_shot", shots=1)
    example = algebra.examples("test", 5)[3]
    assert example.answer == r"\frac{12}{2}"
    assert example.check(example.response)
    assert example.check(r"\boxed{6}")
    assert example.prompt.endswith("\n\nProblem: Double $3$.\nSolution:")
    val = [row["problem"] for row in SOLVED[5:] if split_of(row["problem"]) == "val"]
    assert [e.prompt.split("Problem: ")[-1].split("\n")[0] for e in algebra.examples("val", len(val))] == val
    assert len(val) > 0
    assert len(algebra.examples("train", 55 - len(val))) == 55 - len(val)


@pytest.mark.parametrize("name", ["math500", "minerva_algebra"])
def test_the_worked_examples_are_right(write_rows, name):
    template = task(name, path="none.jsonl", template="few_shot").prompts
    rows = [{"problem": shot["problem"], "solution": shot["response"]} for shot in template.shots]
    examples = task("minerva_algebra", path=write_rows(rows)).examples("test", len(rows))
    assert all(example.check(example.response) for example in examples)


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("math500", {"question": "x", "answer": "1"}, "row 1: expected a column problem, got question, answer"),
        ("math500", {"problem": "x", "answer": 5}, "row 1: expected a text in column answer, got 5"),
        ("minerva_algebra", {"problem": "x", "answer": "1"}, "row 1: expected a column solution, got problem, answer"),
        ("minerva_algebra", {"problem": "x", "solution": "5"}, r"row 1: expected \\boxed\{...\} in column solution"),
    ],
)
def test_another_schema_is_refused(write_rows, name, row, message):
    with pytest.raises(UserError, match=message):
        task(name, path=write_rows([row])).examples("test", 1)


def test_without_the_library_the_task_is_refused_at_once(monkeypatch):
    from dmaxlit.tasks.grading import math_equivalence

    monkeypatch.setattr(math_equivalence, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="task 'minerva_algebra' needs the math-verify library: pip install"):
        task("minerva_algebra")
