import json
import math

import pytest

from dmaxlit.errors import UserError
from dmaxlit.evaluation.compare import compare_runs, comparison_table


def row(index, correct, tokens=10, forwards=5):
    return {"index": index, "correct": correct, "num_tokens": tokens, "num_forwards": forwards, "finished": True}


def write_run(folder, settings, prompts="p1"):
    """Write what ``compare`` reads of an evaluation: settings by (task, title)."""
    results = []
    for (task, title), rows in settings.items():
        path = folder / task / f"{title}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        manifest = {"settings": {"task": task, "title": title, "prompts": prompts}}
        path.with_name(path.name + ".manifest.json").write_text(json.dumps(manifest))
        results.append({"task": task, "title": title, "samples": f"{task}/{title}.jsonl"})
    tasks = {task: {"prompts": prompts} for task, _ in settings}
    record = {"format": "dmaxlit-evaluation-1", "tasks": tasks, "results": results}
    (folder / "record.json").write_text(json.dumps(record))
    return folder


A = [row(0, True), row(1, False), row(2, False), row(3, True)]
B = [row(0, True, 10, 2), row(1, True, 10, 2), row(2, True, 10, 2), row(3, False, 10, 2)]


def test_settings_in_common_are_compared_prompt_by_prompt(tmp_path):
    a = write_run(tmp_path / "a", {("chain", "spd"): A, ("chain", "one_token"): A, ("gsm8k", "spd"): A})
    b = write_run(tmp_path / "b", {("gsm8k", "spd"): A, ("chain", "spd"): B, ("chain", "psd"): B})
    chain, gsm8k = compare_runs(a, b)
    assert (chain.task, chain.title, chain.num_prompts, chain.accuracy, chain.tpf) == (
        "chain",
        "spd",
        4,
        (0.5, 0.75),
        (2, 5),
    )
    assert (chain.difference.difference, chain.difference.only_a, chain.difference.only_b) == (0.25, 1, 2)
    assert chain.difference.low < 0.25 < chain.difference.high
    assert chain.ratio.ratio == chain.ratio.low == chain.ratio.high == pytest.approx(2.5)
    assert chain.ratio_without_eos.ratio == pytest.approx(2.5)
    assert (gsm8k.task, gsm8k.difference.difference, gsm8k.difference.p_value) == ("gsm8k", 0.0, 1.0)
    table = comparison_table([chain, gsm8k])
    assert [line for line in table.splitlines() if line.startswith("## ")] == ["## chain", "## gsm8k"]
    assert "+25.0 [" in table
    assert "2.50 [2.50, 2.50]" in table


def test_any_two_files_of_samples_are_compared(tmp_path):
    run = write_run(tmp_path, {("chain", "spd"): A, ("chain", "psd"): B})
    (comparison,) = compare_runs(run / "chain/spd.jsonl", run / "chain/psd.jsonl")
    assert (comparison.title, comparison.difference.difference) == ("spd / psd", 0.25)


def test_answers_of_nothing_but_eos_have_no_ratio_without_it(tmp_path):
    empty = [row(0, False, 1, 1)]
    run = write_run(tmp_path, {("chain", "spd"): empty, ("chain", "psd"): empty})
    (comparison,) = compare_runs(run / "chain/spd.jsonl", run / "chain/psd.jsonl")
    assert math.isnan(comparison.ratio_without_eos.ratio)
    assert comparison.to_dict()["ratio_without_eos"] == {"ratio": None, "low": None, "high": None}


def test_what_cannot_be_compared_is_refused_in_one_line(tmp_path):
    a = write_run(tmp_path / "a", {("chain", "spd"): A})
    other_prompts = write_run(tmp_path / "b", {("chain", "spd"): A[:2]}, prompts="p2")
    other_settings = write_run(tmp_path / "c", {("chain", "psd"): A})
    (tmp_path / "empty").mkdir()
    odd = write_run(tmp_path / "odd", {("chain", "spd"): A})
    (odd / "record.json").write_text('{"format": "dmaxlit-evaluation-1", "results": [{}]}')
    old = write_run(tmp_path / "old", {("chain", "spd"): A})
    (old / "record.json").write_text('{"format": "x"}')
    broken = write_run(tmp_path / "broken", {("chain", "spd"): [{"index": 0}] * 4})
    torn = write_run(tmp_path / "torn", {("chain", "spd"): A})
    (torn / "chain/spd.jsonl").write_text('{"index": 0')
    for other, refusal in (
        (other_prompts, "expected the same prompts, got 4 of 'chain' in '.*' and 2 others in '.*'"),
        (other_settings, "expected a task and setting in common, got chain spd and chain psd"),
        (tmp_path / "empty", "expected the folder of a complete evaluation, got '.*empty', without record.json"),
        (tmp_path / "gone", "expected the folder of a complete evaluation, got '.*gone'"),
        (a / "chain/spd.jsonl", "expected two folders or two files of samples, got '.*a', which is no file"),
        (odd, "expected the record of an evaluation, got '.*' without 'task'"),
        (old, "expected a record of format dmaxlit-evaluation-1, got 'x'"),
        (broken, "expected rows of an evaluation, got others .*correct"),
        (torn, "cannot read '.*spd.jsonl'"),
    ):
        with pytest.raises(UserError, match=f"compare: {refusal}") as refused:
            compare_runs(a, other)
        assert "\n" not in str(refused.value)
