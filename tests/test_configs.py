"""Every shipped recipe, through the real command line, with a model and data small enough for a test."""

import io
import re
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

import pytest
import yaml

import dmaxlit
from dmaxlit.backbone import Denoiser
from dmaxlit.cli import main
from tests.conftest import make_denoiser
from tests.sandbox.requirement import needs_sandbox

FOLDER = Path(__file__).parents[1] / "configs"
FRAGMENTS = {"fsdp"}  # put after a recipe
TEXT = {"reasoning_gym", "adapt_from_ar", "dense_0.6b_oput"}  # need a model that writes text
CONFIGS = [path for path in sorted(FOLDER.glob("*.yaml")) if path.stem not in FRAGMENTS]
# Those for LLaDA2 run in test_llada2_commands.py, on a tiny checkpoint of its form.
FROM_SCRATCH = {"pretrain_mini_sudoku", "pretrain_programs_answers", "pretrain_stories_recall"}
# Those that go on from another model of a task, with its tokenizer.
STORIES = ("pretrain_stories_questions", "pretrain_stories_answers", "pretrain_stories")
GOING_ON = {"pretrain_programs": "programs", **dict.fromkeys(STORIES, "stories")}
FROM_OTHER_BASES = {name: name for name in ("programs", "stories")}  # named as their tasks
ON_OTHER_TASKS = FROM_SCRATCH | set(GOING_ON) | set(FROM_OTHER_BASES)
ON_CHAIN = [path for path in CONFIGS if path.stem not in TEXT | ON_OTHER_TASKS and not path.stem.startswith("llada2")]
SMALL_MODEL = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore:.*does not have many workers")

SMALL_DATA = ["--data.batch_size", "2", "--data.num_val", "2", "--data.num_test", "2", "--data.num_train", "4"]
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    dmaxlit.DMaxModule(make_denoiser(block_length=16, max_position_embeddings=512)).export(folder)
    return folder


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Lightning uses what jsonargparse has renamed.
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")


@cache
def settings_of(*names):
    """Return the settings of recipes, one after the other, as ``--print_config`` shows them; all are safe."""
    args = [arg for name in names for arg in ("--config", str(FOLDER / f"{name}.yaml"))]
    output = io.StringIO()
    with pytest.raises(SystemExit) as end, redirect_stdout(output):
        main(["fit", "--safe", *args, "--print_config"])
    assert not end.value.code
    return yaml.safe_load(output.getvalue())


def judged(names):
    """Sort recipes whose validation prompts are drawn: those of programs need a sandbox."""
    return [pytest.param(name, marks=needs_sandbox if "programs" in name else ()) for name in sorted(names)]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_has_a_line_in_the_readme(path):
    line = f"| [`{path.stem}`]({path.name}) | "
    assert (FOLDER / "README.md").read_text(encoding="utf-8").count(line) == 1


def test_the_readme_s_own_recipes_parse(tmp_path):
    recipe, adding = re.findall(r"```yaml\n(.*?)```", (FOLDER / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "configs").symlink_to(FOLDER)
    (tmp_path / "my_recipe.yaml").write_text(recipe)
    settings = settings_of(tmp_path / "my_recipe")
    assert settings["model"]["noise"]["init_args"]["level"] == 0.5
    assert settings["data"]["init_args"]["distill"] is None
    assert settings["model"]["optimizer"] == settings_of("quickstart")["model"]["optimizer"]
    (tmp_path / "adding.yaml").write_text(adding)
    before, after = (settings_of(path)["trainer"]["callbacks"] for path in ("quickstart", tmp_path / "adding"))
    assert after[:-1] == before
    assert after[-1]["class_path"].endswith("LearningRateMonitor")


def test_there_are_recipes_for_what_is_compared():
    names = {path.stem for path in CONFIGS}
    assert {"quickstart", "control", "uniform", "argmax_rollout", "alternating", "pretrain", "reasoning_gym"} <= names


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_recipe_parses_and_says_how_it_is_run(path):
    assert settings_of(path.stem)["model"]["backbone"]["class_path"].endswith("Denoiser")
    assert f"python -m dmaxlit fit --config configs/{path.name}" in path.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("path", ON_CHAIN, ids=lambda path: path.stem)
def test_a_recipe_runs_dry_from_any_folder_and_leaves_nothing_behind(path, tiny, tmp_path):
    model = ["--model.backbone.pretrained", str(tiny), "--model.backbone.config", "null"]
    flags = [*model, *SMALL_DATA, "--data.task.operations", "3", *QUIET, "--trainer.fast_dev_run", "true"]
    main(["fit", "--config", str(path), *flags])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", judged(FROM_SCRATCH))
def test_a_recipe_for_another_task_runs_dry(tmp_path, name):
    model = [flag for key, value in SMALL_MODEL.items() for flag in (f"--model.backbone.config.{key}", str(value))]
    flags = [*model, *SMALL_DATA, *QUIET, "--trainer.fast_dev_run", "true"]
    main(["fit", "--config", str(FOLDER / f"{name}.yaml"), *flags])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", judged(GOING_ON | FROM_OTHER_BASES))
def test_a_recipe_that_goes_on_from_a_model_of_another_task_runs_dry(tmp_path, tmp_path_factory, name):
    config = settings_of("pretrain_stories_recall")["model"]["backbone"]["init_args"]["config"] | SMALL_MODEL
    folder = tmp_path_factory.mktemp("models") / "before"
    tokenizer = (GOING_ON | FROM_OTHER_BASES)[name]
    dmaxlit.DMaxModule(Denoiser(config=config, tokenizer=tokenizer, block_length=32)).export(folder)
    flags = ["--model.backbone.pretrained", str(folder), *SMALL_DATA, *QUIET, "--trainer.fast_dev_run", "true"]
    main(["fit", "--config", str(FOLDER / f"{name}.yaml"), *flags])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", sorted(GOING_ON))
def test_a_recipe_goes_on_from_what_the_one_before_it_exports(name):
    pretrained = settings_of(name)["model"]["backbone"]["init_args"]["pretrained"]
    before = FOLDER / f"{Path(pretrained).parent.name}.yaml"
    assert f"--output {pretrained}" in before.read_text()


@pytest.mark.parametrize("name", sorted(FROM_OTHER_BASES))
def test_a_recipe_for_another_task_is_the_quickstart_s_method(name):
    recipe, quickstart = settings_of(name), settings_of("quickstart")
    assert recipe["model"]["noise"]["class_path"] == quickstart["model"]["noise"]["class_path"]
    assert recipe["data"]["class_path"] == quickstart["data"]["class_path"]
    assert "SPDValidation" in str(recipe["trainer"]["callbacks"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:corpus. .* unknown:dmaxlit.errors.DMaxWarning")  # the tiny model knows no English
@pytest.mark.parametrize("name", ["reasoning_gym", "dense_0.6b_oput"])
def test_the_reasoning_gym_recipes_run_dry(tiny, tmp_path, name):
    pytest.importorskip("reasoning_gym")
    flags = [*SMALL_DATA, "--data.task.max_new_tokens", "20", *QUIET, "--trainer.fast_dev_run", "true"]
    model = ["--model.backbone.pretrained", str(tiny)]
    flags += ["--trainer.precision", "32-true"]
    main(["fit", "--config", str(FOLDER / f"{name}.yaml"), *model, *flags])
    assert list(tmp_path.iterdir()) == []


def test_the_recipe_for_autoregressive_models_runs_dry(tiny, tmp_path):
    (tmp_path / "corpus.jsonl").write_text('{"prompt": "3 +1 ?", "response": "take 3 with +1"}\n' * 4)
    model = ["--model.backbone.pretrained", str(tiny), "--model.backbone.max_length", "64"]
    flags = ["--data.corpus", "corpus.jsonl", "--data.batch_size", "2", "--trainer.precision", "32-true", *QUIET]
    main(["fit", "--config", str(FOLDER / "adapt_from_ar.yaml"), *model, *flags, "--trainer.fast_dev_run", "true"])
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.jsonl"]


def test_the_fragment_for_many_gpus_goes_with_any_recipe():
    settings = settings_of("quickstart", "fsdp")
    alone = settings_of("quickstart")
    assert settings["trainer"]["strategy"]["class_path"].endswith("FSDP2Strategy")
    assert settings["trainer"]["callbacks"] == alone["trainer"]["callbacks"]
    backbone = settings["model"]["backbone"]["init_args"]
    assert backbone["defer"]
    assert backbone["pretrained"] == alone["model"]["backbone"]["init_args"]["pretrained"]


@pytest.mark.parametrize(
    ("name", "differs"),
    [
        ("control", ("noise", "class_path", "dmaxlit.noise.masked.MaskedNoise")),
        ("uniform", ("noise", "class_path", "dmaxlit.noise.uniform.UniformNoise")),
        ("argmax_rollout", ("noise", "rollout", "argmax")),
        ("alternating", ("noise", "alternate", True)),
    ],
)
def test_a_variant_is_the_quickstart_except_for_its_own_settings(name, differs):
    quickstart, variant = settings_of("quickstart"), settings_of(name)
    key, option, value = differs
    noise = variant["model"][key]
    assert {**noise, **noise["init_args"]}[option] == value
    for same in ("backbone", "optimizer", "seed"):
        assert variant["model"][same] == quickstart["model"][same]
    assert variant["data"] == quickstart["data"]
    assert variant["trainer"]["callbacks"] == quickstart["trainer"]["callbacks"]
    assert variant["trainer"]["default_root_dir"] == f"runs/{name}"


def test_a_recipe_that_alternates_views_logs_both_of_them():
    every = settings_of("alternating")["trainer"]["log_every_n_steps"]
    assert {step % 2 for step in range(every - 1, 20, every)} == {0, 1}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_schedule_lasts_as_long_as_training(path):
    settings = settings_of(path.stem)
    if settings["model"]["lr_scheduler"]["class_path"].endswith("WarmupCosine"):
        assert settings["model"]["lr_scheduler"]["init_args"]["total_steps"] is None  # it asks the trainer
        return
    assert settings["model"]["lr_scheduler"]["init_args"]["T_max"] == settings["trainer"]["max_steps"]
