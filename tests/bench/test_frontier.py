import json
from pathlib import Path

import pytest

from dmaxlit import UserError, load
from dmaxlit.bench import FrontierBench, frontier
from dmaxlit.bench.frontier_models import FrontierModels
from dmaxlit.bench.frontier_settings import FrontierStudy
from dmaxlit.evaluation.evaluate import DecoderSpec

CONFIGS = Path(__file__).parents[2] / "configs"
SETTINGS = {"num_prompts": 4, "steps": 1, "num_examples": 2, "num_timed": 1, "repeats": 1}
FAST = DecoderSpec("threshold", {"threshold": 0.0}, "fast")  # a forward for each block
WIDE = DecoderSpec("threshold", {"threshold": 0.3}, "wide", window=2)


def bench(output, **settings):
    chosen = {"setting": "standard", "study": "methods", "seeds": (0,), "methods": None, **SETTINGS}
    return FrontierBench(output, configs=CONFIGS, **{**chosen, **settings})


@pytest.fixture
def without_training(monkeypatch):
    """Let the shipped base stand for all models, and have two models and decoders only."""
    module = load("builtin:chain-base", probe=False)
    monkeypatch.setattr(FrontierModels, "model", lambda self, method, seed: "builtin:chain-base")
    monkeypatch.setattr(frontier, "load", lambda path: module)
    monkeypatch.setattr(frontier, "REFERENCE", ("on_policy", FAST))
    study = FrontierStudy(("base", "on_policy"), (FAST, WIDE), (FAST,))
    monkeypatch.setitem(frontier.STUDIES, "methods", study)
    monkeypatch.setitem(frontier.STUDIES, "window", FrontierStudy(("on_policy",), (FAST,)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"setting": "short"}, "setting: expected 'standard' or 'long', got 'short'"),
        ({"study": "all"}, "study: expected 'methods' or 'window', got 'all'"),
        ({"seeds": ()}, "seeds: expected at least one, got none"),
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"repeats": 0}, "repeats: expected at least 1, got 0"),
        ({"num_timed": 3}, "num_timed: expected at most the 2 of num_examples, got 3"),
        ({"methods": ("base",)}, "methods: expected on_policy, and others of base, .*; got base"),
        ({"methods": ("on_policy", "magic")}, "methods: expected on_policy, .*; got on_policy, magic"),
        ({"methods": ()}, "methods: expected on_policy, .*; got none"),
        ({"study": "window", "methods": ("on_policy", "base")}, "and others of on_policy, multi_block; got"),
    ],
)
def test_bad_settings_are_refused(tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        bench(tmp_path, **settings)


def test_a_folder_without_the_recipes_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"configs: expected a folder with pretrain\.yaml"):
        FrontierBench(tmp_path, "standard", "methods", tmp_path, (0,), None, **SETTINGS)


@pytest.mark.parametrize("name", SETTINGS)
def test_results_of_other_settings_are_not_mixed_in(tmp_path, name):
    (tmp_path / "standard").mkdir()
    (tmp_path / "standard" / "settings.json").write_text(json.dumps({**SETTINGS, name: 7}))
    with pytest.raises(UserError, match=f"{name}: expected 7"):
        bench(tmp_path).run()


def test_models_are_decoded_and_tabulated_and_rows_are_not_measured_twice(tmp_path, without_training, monkeypatch):
    table = bench(tmp_path, seeds=(0, 1)).run()
    names = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")]
    rows = ["base / fast", "on_policy / fast", "on_policy / wide"]
    assert names == ["model / decoder", "---", *rows]
    assert (tmp_path / "standard" / "methods" / "table.md").read_text(encoding="utf-8") == table + "\n"
    results = json.loads((tmp_path / "standard" / "methods" / "results.json").read_text())
    seeds = [row["seeds"] for row in results["summary"]]
    assert seeds == [1, 2, 2]  # the base has no training seed
    (same,) = (row for row in results["summary"] if row["method"] == "on_policy" and row["decoder"] == "fast")
    assert same["ratio"]["ratio"] == 1
    assert same["difference"]["p_value"] == 1
    wide = results["summary"][2]
    assert wide["extra_blocks"]["mean"] > 0
    assert same["extra_blocks"]["mean"] == 0

    def fail(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr(frontier, "measure_pair", fail)
    assert bench(tmp_path, seeds=(0, 1)).run() == table
    bench(tmp_path, study="window").run()  # its row is one of the other study's
    runs = tmp_path / "standard" / "runs" / "on_policy-1.json"
    stored = json.loads(runs.read_text())
    runs.write_text(json.dumps(dict(list(stored.items())[:1])))  # as an interruption leaves it
    with pytest.raises(AssertionError, match="measured again"):
        bench(tmp_path, seeds=(0, 1)).run()
