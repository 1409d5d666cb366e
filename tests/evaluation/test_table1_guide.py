"""The guide "Reproduce Table 1 of DMax": its commands, run on a tiny model of the same form."""

import json
import re
import shlex
from pathlib import Path

import pytest

from dmaxlit.cli import main
from tests.backbone.formats.llada2_published import write_published
from tests.sandbox.requirement import needs_sandbox

GUIDE = Path(__file__).parents[2] / "dmaxlit" / "evaluation" / "README.md"
(SECTION,) = re.findall(r"^## Reproduce Table 1 of DMax\n(.*?)^## ", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
MATH = {
    "gsm8k": {"question": "What is 1 + 1?", "answer": "It is 2\n#### 2"},
    "math500": {"problem": "What is $1+1$?", "answer": "2"},
    "minerva_algebra": {"problem": "Solve $x+1=3$.", "solution": "$x=\\boxed{2}$"},
    "asdiv": {"body": "Ann has 1 apple.", "question": "How many has she?", "answer": "1 (apples)"},
}
CODE = {
    "humaneval_instruct": {
        "task_id": "HumanEval/0",
        "prompt": 'def double(x):\n    """Double it."""\n',
        "entry_point": "double",
        "canonical_solution": "    return 2 * x\n",
        "test": "def check(candidate):\n    assert candidate(2) == 4\n",
    },
    "mbpp_instruct": {
        "task_id": 11,
        "text": "Write a function to double a number.",
        "code": "def double(x):\n    return 2 * x",
        "test_list": ["assert double(2) == 4"],
        "test_setup_code": "",
    },
}


def commands():
    """Return the arguments of each command, by the name of its output."""
    lines = re.findall(r"^python -m dmaxlit ((?:[^\n\\]|\\\n)+)", SECTION, re.MULTILINE)
    split = [shlex.split(line.replace("\\\n", " ")) for line in lines]
    return {Path(args[args.index("--output") + 1]).stem: args for args in split}


def value(args, flag):
    return args[args.index(flag) + 1]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with the guide's files of decoders, and a hub with one tiny model under every name."""
    monkeypatch.chdir(tmp_path)
    for name, content in re.findall(r"^```yaml\n# (\S+)\n(.*?)^```", SECTION, re.DOTALL | re.MULTILINE):
        Path(name).write_text(content)
    for task, row in {**MATH, **CODE}.items():
        Path(f"{task}.jsonl").write_text(json.dumps(row) + "\n")
    published = write_published(tmp_path / "published")
    monkeypatch.setattr("dmaxlit.backbone.formats.hub.snapshot_download", lambda name, **_: str(published))
    # Pictures have tests of their own, and would take most of the time.
    monkeypatch.setattr("dmaxlit.evaluation.run_report.write_curve", lambda *_: None)


def run(args):
    """Run a command with rows of the same schema, on the CPU, and with short answers; return its record."""
    data = [part for task in value(args, "--tasks").split(",") for part in (f"--task.{task}.path", f"{task}.jsonl")]
    main([*args, *data, "--max_new_tokens", "4", "--device", "cpu"])
    return json.loads((Path(value(args, "--output")) / "record.json").read_text())


def check(record, tasks, decoder):
    assert set(record["tasks"]) == set(tasks)
    assert {task["template"] for task in record["tasks"].values()} == {"dmax"}
    assert {task["chat"] for task in record["tasks"].values()} == {True}
    assert (record["model"]["block_length"], record["model"]["dtype"]) == (32, "bfloat16")
    assert {result["decoder"] for result in record["results"]} == {decoder}
    assert all("published" in result["tpf"] for result in record["results"])


def run_both(kind, tasks):
    """Run the commands of both models for one kind of task, check and return their records."""
    lines = commands()
    mini, dmax = run(lines[f"mini-{kind}"]), run(lines[f"dmax-{kind}"])
    check(mini, tasks, "threshold")
    check(dmax, tasks, "spd")
    return mini, dmax


def thresholds(record, option):
    return sorted({result["options"][option] for result in record["results"]})


@pytest.mark.slow
def test_the_answers_to_mathematics(workplace, capsys):
    lines = commands()
    mini, dmax = run_both("math", MATH)
    assert thresholds(mini, "threshold") == [0.5, 0.95]
    assert thresholds(dmax, "tau_dec") == [0.5]
    assert {task["grading"] for task in dmax["tasks"].values()} == {"strict"}
    main(lines["dmax-math-lenient"])
    lenient = json.loads((Path(value(lines["dmax-math-lenient"], "--output")) / "record.json").read_text())
    assert lenient["regraded"]["answers"] == value(lines["dmax-math"], "--output")
    assert {task["grading"] for task in lenient["tasks"].values()} == {"lenient"}
    main(lines["comparison"])
    assert json.loads(Path("comparison.json").read_text())[0]["num_prompts"] == 1


@needs_sandbox
def test_the_answers_to_code(workplace):
    mini, dmax = run_both("code", CODE)
    assert thresholds(mini, "threshold") == [0.65, 0.95]
    assert thresholds(dmax, "tau_dec") == [0.65]


def test_the_models_are_those_of_the_paper():
    models = {name: value(args, "--model") for name, args in commands().items() if "--model" in args}
    assert models == {
        "mini-math": "inclusionAI/LLaDA2.0-mini",
        "mini-code": "inclusionAI/LLaDA2.0-mini",
        "dmax-math": "Zigeng/DMax-Math-16B",
        "dmax-code": "Zigeng/DMax-Coder-16B",
    }
