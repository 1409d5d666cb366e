import json
import os
from pathlib import Path

import pytest

from dmaxlit.bench import GradingBench
from dmaxlit.bench.grading import GRADED, Check, format_table
from dmaxlit.bench.sandbox_overhead import SandboxOverhead
from dmaxlit.errors import UserError
from tests.sandbox.requirement import REASONS, needs_sandbox

# The folder of the real files, which are not part of the project.
REAL = Path(os.environ.get("DMAXLIT_DATA", "DMAXLIT_DATA"))


def write(folder, answers):
    rows = [{"question": f"What is {i}?", "answer": answer} for i, answer in enumerate(answers)]
    (folder / "gsm8k_test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_command_writes_table_and_json(tmp_path):
    write(tmp_path, ["2 + 2 = 4\n#### 4", "it is -3\n#### -3", "#### 1,000"])
    table = GradingBench(tmp_path, tmp_path / "out").run()
    assert (tmp_path / "out" / "table.md").read_text(encoding="utf-8") == table + "\n"
    checks = [Check(**entry) for entry in json.loads((tmp_path / "out" / "results.json").read_text())["checks"]]
    assert format_table(checks) == table
    assert {check.data for check in checks} == {"gsm8k"}
    assert sum(check.failures for check in checks) == 0
    assert {check.check: check.texts for check in checks}["last digit"] == 9


def test_wrong_verdicts_are_counted_and_shown(tmp_path, monkeypatch):
    write(tmp_path, ["#### 4", "#### 5"])
    monkeypatch.setattr("dmaxlit.tasks.grading.NumberGrader.__call__", lambda self, text: True)
    checks = GradingBench(tmp_path, tmp_path / "out", limit=1).grade("gsm8k", GRADED["gsm8k"])
    wrong = {check.check: check for check in checks}["last digit"]
    assert (wrong.texts, wrong.failures, wrong.right) == (3, 3, False)
    assert wrong.examples[1] == (0, "That is all.\n#### 5")
    assert "| gsm8k | last digit | wrong | 3 | 3 |" in format_table(checks)


def test_bad_settings_are_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"data: expected a folder with one of gsm8k_test.jsonl, math500.jsonl, .*, got"
    ):
        GradingBench(tmp_path, tmp_path / "out")
    write(tmp_path, ["#### 4"])
    with pytest.raises(UserError, match="limit: expected at least 1, got 0"):
        GradingBench(tmp_path, tmp_path / "out", limit=0)
    assert not (tmp_path / "out").exists()


@needs_sandbox
def test_where_code_is_graded_the_sandbox_is_timed_in_the_same_run(tmp_path, monkeypatch):
    monkeypatch.setattr("dmaxlit.bench.grading.sandbox_overhead", lambda: SandboxOverhead("bubblewrap", 3, 0.1, 0.25))
    rows = [{"text": "Add 1.", "code": "def add(x):\n    return x + 1", "test_list": ["assert add(1) == 2"]}]
    (tmp_path / "mbpp.jsonl").write_text(json.dumps(rows[0]) + "\n")
    table = GradingBench(tmp_path, tmp_path / "out").run()
    sentence = table.splitlines()[-1]
    assert sentence == (
        "Sandbox (bubblewrap): a function that does nothing takes 100 ms (median), 250 ms (95th percentile of 3)."
    )
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert SandboxOverhead(**results["sandbox"]).line() == sentence


@pytest.mark.parametrize("name", list(GRADED))
def test_the_first_items_of_the_real_data_are_graded_without_failure(tmp_path, name):
    if not (REAL / GRADED[name].file).is_file():
        pytest.skip(f"no {GRADED[name].file} in {REAL}")
    if name == "math500":
        pytest.importorskip("math_verify")
    if GRADED[name].runs_code and all(REASONS.values()):
        pytest.skip(f"no sandbox here: {REASONS}")
    limit = 3 if GRADED[name].runs_code else 10 if name == "math500" else 40  # code and LaTeX take their time
    checks = GradingBench(REAL, tmp_path, limit=limit).grade(name, GRADED[name])
    assert sum(check.texts for check in checks) >= 4 * limit
    assert [(check.check, check.examples) for check in checks if check.failures] == []
