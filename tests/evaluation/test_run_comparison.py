import csv
import io
import json
import math
from pathlib import Path

import pytest

from dmaxlit.errors import UserError
from dmaxlit.evaluation.run_comparison import read_runs, runs_csv, runs_table
from dmaxlit.metrics import accuracy_under_parallelism
from tests.evaluation.test_curve_figure import result


def row(model, label, accuracy, tpf):
    return {
        "model": model,
        "label": label,
        **result(accuracy, tpf).to_dict(),
        "tpf_low": tpf - 0.5,
        "tpf_high": tpf + 1,
    }


def write_fit(folder, trained, prompts="p", curve=(), **settings):
    """Write what training runs leave: results of the base and the trained model by label, and a curve."""
    folder.mkdir(parents=True)
    rows = [row("base", "spd", 0.5, 2.0)] + [row("trained", label, *figures) for label, figures in trained.items()]
    cost = {"train_seconds": 12.0, "peak_memory_mib": 345.6}
    results = {"task": {"name": "chain"}, "steps": 4, "prompts": prompts, "cost": cost, "settings": settings}
    (folder / "results.json").write_text(json.dumps({**results, "rows": rows}))
    points = [{"title": f"spd {t}", "threshold": t, **row("trained", "spd", a, f)} for t, a, f in curve]
    if points:
        content = {"task": {"name": "chain"}, "split": "validation", "steps": 4, "prompts": "v", "points": points}
        (folder / "curve.json").write_text(json.dumps(content))
    return folder


def write_evaluation(folder, figures, prompts="p", task="chain", **settings):
    """Write the record of an evaluation with figures by title."""
    folder.mkdir(parents=True)
    results = [
        {
            **row("", title, *figures[title]),
            "task": task,
            "title": title,
            "line": "spd",
            "threshold": 0.5,
            "tpf": {"dmaxlit": figures[title][1], "published": 1.5},
            "timing": {"seconds": 2.0, "tokens_per_second": 30.0},
        }
        for title in figures
    ]
    tasks = {task: {"prompts": prompts}}
    record = {"format": "dmaxlit-evaluation-1", "model": {"source": "m"}, "tasks": tasks, "results": results}
    record["settings"] = {"model": "hash", "split": "test", **settings}
    (folder / "record.json").write_text(json.dumps(record))
    return folder


def table_rows(text):
    """Return the cells of the table rows in a text."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "---" not in line]


def test_runs_are_compared_by_what_differs_and_by_their_figures(tmp_path):
    a = write_fit(tmp_path / "a", {"spd": (0.9, 4.0)}, **{"model.lr": 0.1, "seed": 0, "model.noise": "on_policy"})
    b = write_fit(tmp_path / "b", {"spd": (0.8, 5.0)}, **{"model.lr": 0.2, "seed": 0})
    comparison = read_runs([a, b])
    assert comparison.differences() == {"model.lr": {"a": 0.1, "b": 0.2}, "model.noise": {"a": "on_policy"}}
    text = runs_table(comparison)
    settings, first, second, header, base, trained_a, trained_b = table_rows(text)
    assert settings == ["run", "model.lr", "model.noise"]
    assert (first, second) == (["a", "0.1", "on_policy"], ["b", "0.2", ""])
    assert header[:4] == ["run", "setting", "accuracy % [95%]", "TPF [95%]"]
    assert base[:4] == ["a", "base, spd", "50.0 [40.4, 59.6]", "2.00 [1.50, 3.00]"]  # which both runs have
    assert trained_a == ["a", "trained, spd", "90.0 [82.6, 94.5]", "4.00 [3.50, 5.00]", "360", "1", "1.0", "12", "346"]
    assert trained_b[:4] == ["b", "trained, spd", "80.0 [71.1, 86.7]", "5.00 [4.50, 6.00]"]
    assert "100 prompts; AUP" in text


def test_aup_is_discounted_by_the_best_run_and_curves_carry_the_runs_name(tmp_path):
    points_a, points_b = [(0.5, 0.9, 2.0), (0.0, 0.8, 6.0)], [(0.5, 0.6, 2.0), (0.0, 0.5, 8.0)]
    a = write_fit(tmp_path / "a", {"spd": (1.0, 4.0)}, curve=points_a)
    b = write_fit(tmp_path / "b", {"spd": (0.7, 4.0)}, curve=points_b)
    comparison = read_runs([a, b])
    (task,) = comparison.curves()
    assert task == "chain, validation prompts"
    assert {label: [p.threshold for p in line] for label, line in comparison.curves()[task].items()} == {
        "a: spd": [0.5, 0.0],
        "b: spd": [0.5, 0.0],
    }
    expected = accuracy_under_parallelism([(2.0, 60.0), (8.0, 50.0)], 90.0)
    assert comparison.aup()[task, "b", "spd"] == pytest.approx(expected)
    text = runs_table(comparison)
    assert "## chain, validation prompts: curves" in text
    assert table_rows(text)[-1] == ["b", "spd", "2", "50.0 to 60.0", "2.00 to 8.00", f"{expected:.0f}"]
    assert list(read_runs([a]).curves()[task]) == ["spd"]


def test_a_run_without_a_report_has_the_figures_of_its_curve(tmp_path):
    run = write_fit(tmp_path / "a", {}, curve=[(0.5, 0.9, 2.0)])
    (run / "results.json").unlink()
    (figures,) = read_runs([run]).runs
    assert [(r.task, r.title, r.threshold) for r in figures.rows] == [("chain, validation prompts", "spd 0.5", 0.5)]


def test_runs_of_fit_and_evaluate_share_a_table_but_not_a_table_of_settings(tmp_path):
    fits = [write_fit(tmp_path / f"f{lr}", {"spd": (0.9, 4.0)}, lr=lr) for lr in (1, 2)]
    evaluations = [write_evaluation(tmp_path / f"e{seed}", {"spd": (0.8, 3.0)}, seed=seed) for seed in (1, 2)]
    comparison = read_runs([*fits, *evaluations])
    assert comparison.differences() == {"lr": {"f1": 1, "f2": 2}, "seed": {"e1": 1, "e2": 2}}
    (task,) = comparison.tasks()
    assert [(run.name, r.result.tpf) for run, r in comparison.tasks()[task]] == [
        ("f1", 2.0),
        ("f1", 4.0),
        ("f2", 4.0),
        ("e1", 3.0),
        ("e2", 3.0),
    ]
    assert comparison.runs[2].settings["model"] == "m"
    assert comparison.runs[2].settings["weights"] == "hash"


def test_other_prompts_are_said_and_other_tasks_have_other_tables(tmp_path):
    a = write_evaluation(tmp_path / "a", {"spd": (0.8, 3.0)})
    b = write_evaluation(tmp_path / "b", {"spd": (0.8, 3.0)}, prompts="q")
    c = write_evaluation(tmp_path / "c", {"spd": (0.8, 3.0)}, task="gsm8k")
    assert "different prompts (100): compare with care" in runs_table(read_runs([a, b]))
    text = runs_table(read_runs([a, c]))
    assert [line for line in text.splitlines() if line.startswith("## ") and "prompts" in line] == [
        "## chain, test prompts",
        "## gsm8k, test prompts",
    ]
    old = write_fit(tmp_path / "old", {"spd": (0.9, 4.0)}, prompts=None)
    assert "100 prompts, not known to be the same" in runs_table(read_runs([a, old]))


def test_csv_and_json_hold_figures_and_settings(tmp_path):
    a = write_fit(tmp_path / "x/run", {"spd": (0.9, 4.0)}, lr=1)
    b = write_fit(tmp_path / "y/run", {"spd": (0.8, 5.0)}, lr=2)
    comparison = read_runs([a, b])
    rows = list(csv.DictReader(io.StringIO(runs_csv(comparison))))
    assert [(r["run"], r["model"], r["accuracy"], r["settings.lr"]) for r in rows] == [
        ("x/run", "base", "0.5", "1"),
        ("x/run", "trained", "0.9", "1"),
        ("y/run", "trained", "0.8", "2"),
    ]
    payload = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    assert payload["differences"] == {"lr": {"x/run": 1, "y/run": 2}}
    assert [run["rows"][1]["tpf_low"] for run in payload["runs"]] == [3.5, 4.5]


def test_figures_of_earlier_releases_have_no_interval_of_tpf(tmp_path):
    run = write_fit(tmp_path / "a", {"spd": (0.9, 4.0)})
    content = json.loads((run / "results.json").read_text())
    for figures in content["rows"]:
        del figures["tpf_low"], figures["tpf_high"]
    for name in ("settings", "cost", "prompts"):
        del content[name]
    (run / "results.json").write_text(json.dumps(content))
    comparison = read_runs([run])
    assert math.isnan(comparison.runs[0].rows[0].result.tpf_low)
    assert table_rows(runs_table(comparison))[1][3] == "2.00"


def test_folders_without_figures_are_skipped_unless_all_are(tmp_path):
    run = write_fit(tmp_path / "a", {"spd": (0.9, 4.0)})
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("")
    comparison = read_runs([run, tmp_path / "empty", tmp_path / "notes.txt", run])
    assert [r.name for r in comparison.runs] == ["a"]
    assert comparison.skipped == [tmp_path / "empty", tmp_path / "notes.txt"]
    for paths, refusal in (
        ([], "expected folders of runs, such as runs/\\*, got none"),
        ([tmp_path / "gone"], "'.*gone', which does not exist"),
        ([tmp_path / "empty"], "expected a folder with results.json of ComparisonReport, .*, got .*empty"),
    ):
        with pytest.raises(UserError, match=f"^runs: .*{refusal}"):
            read_runs(paths)


@pytest.mark.parametrize(
    ("file", "content", "refusal"),
    [
        ("results.json", "{", "results.json: cannot be read"),
        ("results.json", "[]", "results.json: expected a JSON object, got a list"),
        ("results.json", "{}", "expected the figures of a run, got '.*results.json' .*rows"),
        ("results.json", '{"rows": [{"model": "trained", "label": "x"}]}', "figures of a run, got '.*' .*decoder"),
        ("record.json", '{"format": "x"}', "expected a record of format dmaxlit-evaluation-1, got 'x'"),
        ("record.json", '{"format": "dmaxlit-evaluation-1"}', "expected the figures of a run, got '.*record.json'"),
    ],
)
def test_unreadable_figures_are_refused(tmp_path, file, content, refusal):
    Path(tmp_path / file).write_text(content)
    with pytest.raises(UserError, match=refusal) as refused:
        read_runs([tmp_path])
    assert "\n" not in str(refused.value)
