import json
import shutil
from pathlib import Path

import pytest

import dmaxlit
from dmaxlit import UserError
from dmaxlit.backbone import Denoiser
from dmaxlit.bench import TablesBench, paired_rows, tables, tables_models, trained_model
from dmaxlit.bench.paper_tables import PaperTable
from dmaxlit.evaluation.evaluate import DecoderSpec
from tests.conftest import TINY

CONFIGS = Path(__file__).parents[2] / "configs"
SETTINGS = {"num_prompts": 4, "steps": 1, "num_examples": 2, "num_timed": 1, "repeats": 1}
FAST = DecoderSpec("threshold", {"threshold": 0.0}, "threshold 0")  # a forward for each block
SPD = DecoderSpec("spd", {"tau_dec": 0.0, "max_steps": 1}, "SPD 0")
SAME = DecoderSpec("threshold", {"threshold": 0.0}, "fast")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases") / "stories"
    config = {**TINY, "num_hidden_layers": 1, "max_position_embeddings": 256}
    module = dmaxlit.DMaxModule(Denoiser(config=config, tokenizer="stories", block_length=32))
    module.set_task("stories", {"difficulty": "easy", "question": "either"})
    module.export(folder)
    return str(folder)


@pytest.fixture
def jobs(base, monkeypatch):
    """Do jobs in this process, take the base for trained models, and have small tables; record jobs and pictures."""
    done = []

    def run_jobs(bench, jobs, logs, title):
        for job in jobs:
            done.append(job)
            bench.job(*job)

    monkeypatch.setattr(tables, "run_jobs", run_jobs)
    module = dmaxlit.load(base, probe=False)
    monkeypatch.setattr(tables_models, "load", lambda *_, **options: module)
    monkeypatch.setattr(tables_models, "distilled_corpus", lambda model, path, *_: path.touch())
    monkeypatch.setattr(trained_model, "fit", lambda *_: base)
    monkeypatch.setattr(
        trained_model, "checkpoint_to_folder", lambda checkpoint, path: shutil.copytree(checkpoint, path)
    )
    monkeypatch.setattr(tables, "save_curves", lambda path, *_: done.append(path.name))
    monkeypatch.setattr(paired_rows, "speed_ratio", lambda *_: 1.5)
    monkeypatch.setattr(tables, "BASE", ("base", FAST))
    rows = (("base", FAST), ("control", FAST), ("on_policy", SPD))
    small = {
        "curves": PaperTable(rows, rows[0]),
        "training": PaperTable((*rows, ("control", SPD)), rows[2]),
        "methods": PaperTable((("base", SAME), ("control", SPD)), ("base", SAME)),
    }
    for name, table in small.items():
        monkeypatch.setitem(tables.TABLES, name, table)
    return done


def bench(output, bases=None, **settings):
    chosen = {"tables": ("curves", "training"), "seeds": (0, 1), **SETTINGS}
    return TablesBench(output, bases=bases, configs=CONFIGS, **{**chosen, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "chain"}, "task: expected 'stories' or 'programs', got 'chain'"),
        ({"tables": ("4",)}, "tables: expected 'methods', .* or 'training', got '4'"),
        ({"tables": ()}, "tables: expected at least one, got none"),
        ({"seeds": ()}, "seeds: expected at least one, got none"),
        ({"bases": ()}, "bases: expected at least one, got none"),
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"workers": 0}, "workers: expected at least 1, got 0"),
        ({"num_timed": -1}, "num_timed: expected at least 0, got -1"),
        ({"device": "cube"}, "device: expected one that torch can compute on, got 'cube'"),
        ({"num_timed": 3}, "num_timed: expected at most the 2 of num_examples, got 3"),
        ({"task_options": {"word": 4}}, "task 'stories': unknown option word"),
        ({"seeds": (1, 0, 1)}, "seeds: expected every value once, got 1 more than once"),
        ({"task_options": {"words": 1}}, "words: expected at least 4, a whole number, got 1"),
    ],
)
def test_bad_settings_are_refused(tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        bench(tmp_path, **settings)


def test_a_folder_without_the_recipes_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"configs: expected a folder with programs\.yaml"):
        TablesBench(tmp_path, "programs", configs=tmp_path)
    for path in CONFIGS.glob("*.yaml"):
        (tmp_path / path.name).write_text("model: {}\n")
    with pytest.raises(UserError, match=r"configs: expected model\.backbone\.pretrained in .*stories.yaml, found none"):
        TablesBench(tmp_path, configs=tmp_path)


@pytest.mark.parametrize("name", [*SETTINGS, "bases", "task_options", "device"])
def test_results_of_other_settings_are_not_mixed_in(tmp_path, base, name):
    (tmp_path / "stories").mkdir()
    settings = {"bases": [base], "task_options": {}, "device": "cpu", **SETTINGS, name: 7}
    (tmp_path / "stories" / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=f"^{name}: expected 7"):
        bench(tmp_path, (base,)).run()


def test_a_base_that_cannot_be_used_does_not_claim_the_folder(tmp_path):
    with pytest.raises(UserError, match=r"^bases: expected a model folder"):
        bench(tmp_path, (str(tmp_path / "gone"),)).run()
    assert not (tmp_path / "stories").exists()


def test_steps_and_base_are_those_of_the_recipe_unless_chosen(tmp_path):
    models = bench(tmp_path, steps=None, num_prompts=None)._models
    assert (models.steps, models.num_prompts) == (512, 4096)
    assert bench(tmp_path)._models.bases == ("builtin:stories-base",)
    assert bench(tmp_path, task="programs")._models.bases == ("builtin:programs-base",)


def test_models_are_shared_by_tables_and_nothing_is_done_twice(tmp_path, base, jobs, monkeypatch):
    text = bench(tmp_path, (base, base)).run()
    # The corpora first, then what is decoded in most ways.
    models = [(name, number) for name in ("corpus", "control", "base", "on_policy") for number in (0, 1)]
    pictures = ["curves-question_last", "curves-question_first"]
    assert jobs == [*models, *pictures]
    folder = tmp_path / "stories"
    for name in ("curves", "training"):
        assert (folder / name / "table.md").read_text(encoding="utf-8").strip() in text
    results = json.loads((folder / "training" / "results.json").read_text())
    assert list(results["summary"]) == ["question last", "question first"]
    for summary in results["summary"].values():
        assert [(row["method"], row["decoder"], row["seeds"]) for row in summary] == [
            ("base", "threshold 0", 2),
            ("control", "threshold 0", 2),
            ("on_policy", "SPD 0", 2),
            ("control", "SPD 0", 2),
        ]
        assert summary[2]["ratio"]["ratio"] == 1  # the reference
        assert summary[0]["speed"]["1"]["mean"] == 1.5
    assert len(results["runs"]) == 2 * (2 + 3 * 2)
    assert {entry["method"] for entry in results["training"]} == {"control", "on_policy"}
    jobs.clear()
    assert bench(tmp_path, (base, base)).run() == text
    assert jobs == pictures
    # A row of another table is the same whatever it is called there.
    bench(tmp_path, (base, base), tables=("methods",)).run()
    assert jobs == pictures
    stored = folder / "runs" / "control-1-question_first.json"
    first, *_ = json.loads(stored.read_text()).items()
    stored.write_text(json.dumps(dict([first])))  # as an interruption leaves it
    jobs.clear()
    bench(tmp_path, (base, base), tables=("training",)).run()
    assert jobs == [("control", 1)]


def test_speed_is_left_out_if_nothing_is_timed(tmp_path, base, jobs):
    text = bench(tmp_path, (base,), seeds=(0,), num_timed=0).run()
    assert "tokens/s" not in text
    (run, *_) = json.loads((tmp_path / "stories" / "curves" / "results.json").read_text())["runs"]
    assert run["speed"] == {}


def test_a_reference_goes_with_the_seeds_and_bases_of_its_own(tmp_path):
    of = bench(tmp_path, ("a", "b"), seeds=(3, 2, 5))
    base, trained = ("base", FAST), ("on_policy", SPD)
    results = {("base", FAST.title): {0: "b0", 1: "b1"}, ("on_policy", SPD.title): {3: "s3", 2: "s2", 5: "s5"}}
    assert of._reference(PaperTable((), base), results) == {0: "b0", 1: "b1", 3: "b1", 2: "b0", 5: "b1"}
    assert of._reference(PaperTable((), trained), results) == {3: "s3", 2: "s2", 5: "s5", 0: "s2", 1: "s3"}
