"""HumanEval and MBPP: prompts, graders and the real data sets."""

import json
import os
from pathlib import Path

import pytest

from dmaxlit.errors import UserError
from dmaxlit.sandbox import isolation
from dmaxlit.tasks import TASKS, code_task, task
from dmaxlit.tasks.plus_tests import plus_inputs
from dmaxlit.tasks.prompts import is_plain
from dmaxlit.tasks.templates import known_templates
from tests.sandbox.requirement import needs_sandbox

NAMES = ("humaneval", "humaneval_instruct", "mbpp", "mbpp_instruct")
# The folder of the real files, which are not part of the project.
REAL = Path(os.environ.get("DMAXLIT_DATA", "DMAXLIT_DATA"))

HELPER = 'def twice(x):\n    return 2 * x\n\n\ndef half(x):\n    """ Invert twice.\n    >>> half(4)\n    2\n    """\n'
HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": HELPER,
    "entry_point": "half",
    "canonical_solution": "    return x / 2\n",
    "test": "def check(candidate):\n    for x in range(4):\n        assert twice(candidate(x)) == x\n",
}
MBPP = {
    "task_id": 1,
    "text": "Write a function to half a number.",
    "code": "import math\r\ndef half(x):\r\n    return x / 2\r\nclass Box:\r\n    pass",
    "test_setup_code": "box = Box()\r\nbox.x = 4",
    "test_list": ["assert half(box.x) == 2", "assert math.isnan(half(math.nan))"],
    "challenge_test_list": [],
}
PLUS = {
    "task_id": "Mbpp/2",
    "prompt": '"""\nWrite a function to swap a pair.\nassert swap((1, 2)) == (2, 1)\n"""\n',
    "entry_point": "swap",
    "canonical_solution": "\ndef swap(p, q):\n    return (*q, *p)\n",
    "base_input": [[[1], [2]]],
    "plus_input": [[["a"], [2.5]], [[], [float("inf")]]],
    "atol": 0,
    "assertion": "\nassert swap((1,), (2,)) == (2, 1)\n",
}


@needs_sandbox
@pytest.mark.parametrize("name", NAMES)
def test_each_has_two_templates_whose_prompts_hold_the_question(name, write_rows):
    row = HUMANEVAL if name.startswith("humaneval") else MBPP
    path, asked = write_rows([row]), HELPER if name.startswith("humaneval") else "assert half(box.x) == 2"
    templates = known_templates(name)
    assert len(templates) >= 2
    assert "dmax" in templates
    for template in templates:
        example = task(name, path=path, template=template).examples("test", 1)[0]
        assert asked in example.prompt
        assert is_plain(example.prompt) == (name in ("humaneval", "mbpp") and template != "zero_shot")


@needs_sandbox
def test_prompts_of_humaneval_are_the_beginning_of_the_function(write_rows):
    assert task("humaneval", path=write_rows([HUMANEVAL])).examples("test", 1)[0].prompt == HELPER


@needs_sandbox
def test_the_body_or_the_function_continues_the_prompt(write_rows):
    path = write_rows([HUMANEVAL])
    example = task("humaneval", path=path).examples("test", 1)[0]
    assert example.check("    return x / 2\n")
    assert example.check("    return x / 2\nprint(half('no number'))\n")  # cut at the stop text
    assert not example.check("    return x // 2\n")
    assert not example.check("    return x / 3\n\ntwice = lambda x: 3 * x\n")  # the tests have their own
    assert example.extract("    return x / 2\ndef other(): ...") == "    return x / 2"
    instruct = task("humaneval_instruct", path=path).examples("test", 1)[0]
    assert instruct.check(f"So:\n```python\n{HELPER}    return x * 0.5\n```\nDone.")
    assert instruct.check("```python\ndef half(x):\n    return x * 0.5\n```")
    assert not instruct.check("```python\ndef third(x):\n    return x * 0.5\n```")
    assert all(e.check(e.response) for e in (example, instruct))


@needs_sandbox
def test_mbpp_runs_setup_tests_and_imports_of_the_reference(write_rows):
    example = task("mbpp_instruct", path=write_rows([MBPP])).examples("test", 1)[0]
    assert example.check(example.response)
    assert "Your code should pass these tests:\n\nassert half(box.x) == 2\nassert math" in example.prompt
    assert not example.check("def half(x):\n    return x / 2\n")  # the setup calls Box
    assert not example.check("class Box: pass\ndef half(x):\n    return 2\n")


@needs_sandbox
def test_the_tests_of_evalplus_are_inputs_and_a_reference(write_rows):
    example = task("mbpp_instruct", path=write_rows([PLUS]), plus=True).examples("test", 1)[0]
    assert example.prompt.startswith("You are an expert Python programmer, and here is your task: Write a function")
    assert "assert swap((1,), (2,)) == (2, 1)" in example.prompt
    assert example.check(example.response)
    only_tests = "def swap(p, q):\n    return (2, 1)"
    verdict = example.checker.grader.verdict(only_tests)
    assert verdict.detail.startswith("AssertionError: swap of [('a',), (2.5,)] is (2.5, 'a'), not (2, 1)")
    row = {**HUMANEVAL, "base_input": [[1]], "plus_input": [[5], [-3]], "atol": 0}
    example = task("humaneval", path=write_rows([row]), plus=True).examples("test", 1)[0]
    assert example.check(example.response)
    assert not example.check("    return x / 2 if x > 0 else 0\n")


@needs_sandbox
def test_hub_rows_of_evalplus_bring_their_own_tests(write_rows):
    row = {
        **MBPP,
        "prompt": MBPP["text"],
        "test_imports": ["import numpy as np"],
        "test": "import numpy as np\nfor x in (1.0, 3.0):\n    assert np.allclose(half(x), x / 2)\n",
    }
    del row["text"]
    example = task("mbpp_instruct", path=write_rows([row]), plus=True).examples("test", 1)[0]
    assert example.check("```python\ndef half(x):\n    return x * 0.5\n```")
    assert not example.check("```python\ndef half(x):\n    return 0.5\n```")


HUB_TEST = """
import numpy as np

def assertion(out, exp, atol):
    if out != exp and isinstance(exp, float):
        assert type(out) == type(exp)
        assert np.allclose(out, exp, rtol=1e-07, atol=1e-6)
    else:
        assert out == exp

def check(candidate):
    inputs, results = [[1], [3.0], [10**30]], [0.5, 1.5, 5e29]
    for inp, exp in zip(inputs, results):
        assertion(candidate(*inp), exp, 0)
"""


@needs_sandbox
def test_hub_rows_of_humaneval_plus_bring_a_check(write_rows):
    example = task("humaneval", path=write_rows([{**HUMANEVAL, "test": HUB_TEST}]), plus=True).examples("test", 1)[0]
    assert example.check(example.response)
    assert example.check("    return x / 2 + 1e-9\n")
    assert not example.check("    return x // 2\n")


@needs_sandbox
def test_a_match_may_be_answered_by_a_bool(write_rows):
    solution = "import re\ndef check_str(text):\n    return re.search('^[aeiou]', text)\n"
    row = {**PLUS, "entry_point": "check_str", "canonical_solution": solution, "base_input": [["annie"], ["dawood"]]}
    row |= {"plus_input": [], "assertion": "assert check_str('annie')"}
    example = task("mbpp_instruct", path=write_rows([row]), plus=True).examples("test", 1)[0]
    assert example.check(example.response)
    assert example.check("def check_str(text):\n    return text[0] in 'aeiou'")
    assert not example.check("def check_str(text):\n    return text[0] not in 'aeiou'")
    assert not example.check("def check_str(text):\n    return text")


def test_arguments_get_the_types_that_json_lacks():
    row = {"base_input": [[[1, [2]], "ab"]], "plus_input": {}}
    assert plus_inputs(row, 0) == [[[1, [2]], "ab"]]
    assert plus_inputs(row, 2) == [[(1, [2]), "ab"]]
    assert plus_inputs(row, 106) == [[[1, [2]], "ab"]]
    assert plus_inputs(row, 580) == [[(1, (2,)), "ab"]]
    assert plus_inputs({"base_input": [["1+2j"]], "plus_input": []}, 252) == [[1 + 2j]]
    assert plus_inputs({"base_input": [[{"a": [1]}, 2]], "plus_input": []}, 722) == [[{"a": (1,)}, 2]]


@pytest.mark.parametrize(
    ("name", "row", "options", "message"),
    [
        ("humaneval", {**HUMANEVAL, "test": 1}, {}, "row 1: expected a text in column test, got 1"),
        ("humaneval", MBPP, {}, "row 1: expected a column prompt, got task_id, text"),
        ("humaneval", {**HUMANEVAL, "plus_input": 3}, {"plus": True}, "row 1: expected a list of arguments in column"),
        ("humaneval", HUMANEVAL, {"plus": True}, "row 1: expected a list of arguments in column base_input, got None"),
        ("mbpp", {**PLUS, "base_input": [[]], "task_id": "Mbpp/115"}, {"plus": True}, "row 1: has values of"),
        ("mbpp", {**PLUS, "atol": [1]}, {"plus": True}, r"row 1: has values of another form \(TypeError: "),
        ("mbpp", {**MBPP, "test_list": "assert"}, {}, "row 1: expected a list of texts in column test_list"),
        ("mbpp", {**MBPP, "code": "def half(:"}, {}, "row 1: expected Python, got"),
        ("mbpp", {**MBPP, "test_list": ["assert 1"], "test_setup_code": ""}, {}, "row 1: expected tests that call"),
        ("mbpp", {**PLUS, "task_id": "x"}, {"plus": True}, "row 1: expected Mbpp/NUMBER in column task_id, got 'x'"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:sandbox. level 'rlimits'")
def test_another_schema_is_refused(name, row, options, message, write_rows):
    with pytest.raises(UserError, match=message):
        task(name, path=write_rows([row]), sandbox="rlimits", **options).examples("test", 1)


def test_a_machine_without_sandbox_is_refused_at_once(monkeypatch):
    monkeypatch.setattr(isolation, "reason_against", lambda level: "not allowed")
    with pytest.raises(UserError, match=r"install bubblewrap, .* level 'rlimits' \(--task.sandbox rlimits, of"):
        task("humaneval")
    with pytest.raises(UserError, match=r"expected rlimits, got none here \(rlimits: not allowed\)$"):
        task("humaneval", sandbox="rlimits")
    monkeypatch.setattr(isolation, "reason_against", lambda level: None)
    assert task("humaneval").sandbox_level == "bubblewrap"
    assert task("humaneval", sandbox="namespaces").sandbox_level == "namespaces"


@pytest.mark.filterwarnings("ignore:sandbox. level 'rlimits'")
def test_options_are_kept_and_bad_ones_refused(write_rows):
    made = task("mbpp", path=write_rows([MBPP]), plus=True, sandbox="rlimits", seconds=2.5)
    assert (made.settings.cpu_seconds, made.settings.wall_seconds) == (3, 7.5)
    again = type(made)(**made.options())
    assert (again.options(), again.hub_id) == (made.options(), "evalplus/mbppplus")
    assert task("mbpp", sandbox="rlimits").hub_id == "google-research-datasets/mbpp:full"
    for name in NAMES:
        assert not TASKS.get(name).self_contained
    with pytest.raises(UserError, match="sandbox: expected"):
        task("mbpp", sandbox="docker")
    with pytest.raises(UserError, match="seconds: expected a number above 0 and up to 86400, got 0"):
        task("mbpp", sandbox="rlimits", seconds=0)


REAL_FILES = [
    ("humaneval", "humaneval.jsonl", 164, 41),
    ("mbpp", "mbpp.jsonl", 974, 120),
    ("mbpp", "mbpp_plus.jsonl", 378, 90),
]


@needs_sandbox
@pytest.mark.parametrize(("name", "file", "count", "step"), REAL_FILES)
def test_real_reference_solutions_pass_and_another_s_do_not(name, file, count, step):
    if not (REAL / file).is_file():
        pytest.skip(f"{REAL / file} is not here")
    source = task(name, path=str(REAL / file), plus="plus" in file)
    examples = source.examples("test", source.count("test"))
    assert len(examples) == count
    for example, other in zip(examples[::step], examples[1::step], strict=False):
        verdict = example.checker.grader.verdict(example.response)
        assert (verdict.outcome, verdict.detail) == ("passed", "")
        assert not example.checker.grader(other.response)


@pytest.mark.skipif(not (REAL / "mbpp.jsonl").is_file(), reason="the real data are not here")
@needs_sandbox
def test_every_real_row_names_what_its_tests_call():
    rows = [json.loads(line) for line in (REAL / "mbpp.jsonl").read_text().splitlines()]
    examples = task("mbpp", path=str(REAL / "mbpp.jsonl")).examples("test", len(rows))
    graders = {row["task_id"]: example.checker.grader for row, example in zip(rows, examples, strict=True)}
    assert graders[126].names == ("sum",)  # the reference's own, not Python's
    assert set(graders[601].names) == {"Pair", "max_chain_length"}
    assert "import sys" in graders[596].preamble
    assert not any("\r" in grader.tests + grader.preamble for grader in graders.values())


def test_the_record_of_a_run_says_how_answers_are_separated(monkeypatch):
    monkeypatch.setattr(code_task, "level_of", lambda settings: "bubblewrap")
    separated = task("humaneval")
    assert separated.record() == {
        "template": "dmax",
        "shots": 0,
        "chat": separated.prompts.chat,
        "grading": "strict",
        "sandbox": "bubblewrap",
    }
    monkeypatch.setattr(code_task, "level_of", lambda settings: "rlimits")
    assert "a sample" in separated.record()["sandbox_does_not_enforce"]
