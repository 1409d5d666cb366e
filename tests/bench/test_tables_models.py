from pathlib import Path

import pytest
import yaml

import dmaxlit
from dmaxlit import UserError, task
from dmaxlit.backbone import Denoiser
from dmaxlit.bench import tables_models
from dmaxlit.bench.tables_models import TablesModels
from dmaxlit.cli import main
from tests.conftest import TINY
from tests.sandbox.requirement import needs_sandbox

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """Export a tiny model of the task programs, which no checkpoint may name."""
    folder = tmp_path_factory.mktemp("bases") / "programs"
    module = dmaxlit.DMaxModule(Denoiser(config=TINY, tokenizer="programs", block_length=32))
    module.set_task("programs", {"difficulty": "easy"})
    module.export(folder)
    return str(folder)


@pytest.fixture
def trained(monkeypatch):
    """Record what is trained instead of training it."""
    calls = []

    def trained_model(folder, recipe, seed, *options):
        calls.append((folder.name, recipe, seed, options))
        return "builtin:chain-base"

    monkeypatch.setattr(tables_models, "trained_model", trained_model)
    monkeypatch.setattr(tables_models, "distilled_corpus", lambda model, path, num_prompts, task, device: path)
    return calls


def models(folder, task="stories", bases=("first", "second"), **task_options):
    return TablesModels(folder, task, task_options, bases, CONFIGS, 16, 40)


def test_a_seed_starts_from_a_base_and_its_corpus(tmp_path, trained):
    module = models(tmp_path, words=4).load("on_policy", 3, {"question": "first"})
    ((folder, recipe, seed, options),) = trained
    assert (folder, recipe, seed) == ("on_policy-3", CONFIGS / "stories.yaml", 3)
    assert {"--model.backbone.pretrained=second", f"--data.corpus={tmp_path / 'corpus-1.jsonl'}"} <= set(options)
    assert {"--data.task_options.words=4", "--data.distill=null", "--trainer.max_steps=40"} <= set(options)
    assert module.task().options() == {
        "difficulty": "easy",
        "question": "first",
        "words": 4,
        "check": "answer",
        "seed": 0,
    }


def test_other_methods_have_the_noise_of_their_recipe_and_steps_of_the_same_cost(tmp_path, trained, monkeypatch):
    models(tmp_path).load("control", 0, {})
    ((_, recipe, _, options),) = trained
    assert "--trainer.max_steps=60" in options
    assert yaml.safe_load(recipe.read_text()) == {
        "config": str(CONFIGS / "stories.yaml"),
        "model": {"noise": yaml.safe_load((CONFIGS / "control.yaml").read_text())["model"]["noise"]},
    }


def test_uniform_training_has_the_noise_level_of_the_task_and_published_training_has_its_own(tmp_path, trained):
    for method in ("uniform", "fixed_level"):
        models(tmp_path, task="programs").load(method, 0, {})
    uniform, fixed = (yaml.safe_load(recipe.read_text())["model"]["noise"] for _, recipe, _, _ in trained)
    assert uniform == {"class_path": "uniform", "init_args": {"level": [0.5, 1.0]}}
    assert fixed == {"class_path": "on_policy", "init_args": {"level": 0.75}}


def test_a_recipe_that_changes_an_option_changes_it_of_the_task_s_noise(tmp_path, trained, capsys, monkeypatch):
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    models(tmp_path).load("argmax_rollout", 0, {})
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(trained[0][1]), "--print_config"])
    settings = yaml.safe_load(capsys.readouterr().out)
    noise = settings["model"]["noise"]
    assert noise["class_path"].endswith("OnPolicyNoise")
    assert (noise["init_args"]["rollout"], noise["init_args"]["level"]) == ("argmax", [0.5, 1.0])
    assert settings["model"]["backbone"]["init_args"]["pretrained"] == "builtin:stories-base"


@needs_sandbox
def test_a_base_of_programs_knows_its_task_once_the_user_has_named_it(programs, tmp_path):
    of = models(tmp_path, "programs", (programs,))
    of.check(4)
    assert of.load("base", 0, {}).task().options()["style"] == "plain"


def test_a_base_of_another_task_is_refused(programs, tmp_path):
    with pytest.raises(UserError, match=r"bases: expected models of the task 'stories', got .*, a model of 'programs'"):
        models(tmp_path, bases=(programs,)).check(4)


def test_more_test_prompts_than_there_are_are_refused_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(TablesModels, "make_task", lambda self: task("chain", operations=3))
    with pytest.raises(UserError, match=r"^num_examples: expected at most 48 test prompts of 3 operations, got 49$"):
        models(tmp_path, bases=()).check(49)


def test_times_are_those_of_training_here(tmp_path):
    assert models(tmp_path).cpu_seconds("control", 0) is None
    (tmp_path / "control-0").mkdir()
    (tmp_path / "control-0" / "cpu_seconds.json").write_text("2.5")
    assert models(tmp_path).cpu_seconds("control", 0) == 2.5
