import json
from pathlib import Path

import pytest

from dmaxlit.bench import frontier_models, trained_model
from dmaxlit.bench.frontier_models import FrontierModels, file_stem
from dmaxlit.bench.frontier_settings import FRONTIER_METHODS, SETTINGS, STUDIES
from dmaxlit.decoding import make_decoder

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def fits(monkeypatch):
    """Record the calls of ``fit`` instead of training; each one counts as a second of CPU time."""
    calls = []

    def fit(recipe, folder, seed, *options):
        calls.append((recipe.name, folder.name, seed, options))
        return folder

    monkeypatch.setattr(trained_model, "fit", fit)
    monkeypatch.setattr(frontier_models, "distilled_corpus", lambda base, path, num_prompts: path)
    monkeypatch.setattr(trained_model, "checkpoint_to_folder", lambda checkpoint, folder: folder.mkdir())
    monkeypatch.setattr(trained_model, "_seconds_of_children", lambda: float(len(calls)))
    return calls


def models(folder, setting="standard"):
    return FrontierModels(folder, SETTINGS[setting], CONFIGS, 16, 40)


def test_a_method_starts_from_the_model_of_its_seed_with_its_share_of_the_steps(tmp_path, fits):
    path = models(tmp_path).model("multi_block + mmd", 3)
    assert path == str(tmp_path / "multi_block-mmd-3" / "model")
    (first, second) = fits
    assert first[:3] == ("multi_block.yaml", "multi_block-3", 3)
    assert "--model.backbone.pretrained=builtin:chain-base" in first[3]
    assert "--trainer.max_steps=40" in first[3]
    assert second[:3] == ("mmd.yaml", "multi_block-mmd-3", 3)
    assert f"--model.backbone.pretrained={tmp_path / 'multi_block-3' / 'model'}" in second[3]
    assert "--trainer.max_steps=10" in second[3]
    assert {f"--data.corpus={tmp_path / 'corpus.jsonl'}", "--data.distill=null"} <= set(first[3]) & set(second[3])


def test_the_time_of_a_model_has_that_of_what_it_starts_from(tmp_path, fits):
    of = models(tmp_path)
    of.model("multi_block + mmd", 0)
    of.model("multi_block + mmd", 0)  # trained already
    assert len(fits) == 2
    assert (of.cpu_seconds("multi_block", 0), of.cpu_seconds("multi_block + mmd", 0)) == (1, 2)
    assert of.cpu_seconds("base", 0) == 0
    (tmp_path / "multi_block-0" / "cpu_seconds.json").unlink()  # as of a model that was put there
    assert of.cpu_seconds("multi_block", 0) is of.cpu_seconds("multi_block + mmd", 0) is None


def test_the_base_of_long_answers_is_trained_once_with_their_task(tmp_path, fits):
    of = models(tmp_path, "long")
    assert of.base() == of.model("base", 0) == of.model("base", 1)
    of.model("on_policy", 0)
    (base, method) = fits
    assert base[:3] == ("pretrain.yaml", "base-0", 0)
    assert {"--data.task_options.difficulty=hard", "--model.backbone.block_length=16"} <= set(base[3])
    assert "--data.task_options.difficulty=hard" in method[3]
    assert f"--model.backbone.pretrained={tmp_path / 'base-0' / 'model'}" in method[3]


def test_files_of_different_models_have_different_names():
    assert (
        len({file_stem(method, seed) for method in ("base", *FRONTIER_METHODS) for seed in (0, 1)})
        == 2 * len(FRONTIER_METHODS) + 2
    )


@pytest.mark.parametrize("study", STUDIES)
def test_studies_name_methods_and_decoders_that_exist(study):
    study = STUDIES[study]
    assert set(study.methods) <= {"base", *FRONTIER_METHODS}
    for specs in (study.decoders, study.of_base):
        titles = [spec.title for spec in specs]
        assert len(set(titles)) == len(titles)
        for spec in specs:
            make_decoder(spec.name, **spec.options)
        identities = [json.dumps(spec.identity()) for spec in specs]
        assert len(set(identities)) == len(identities)


def test_methods_begin_somewhere_and_have_a_recipe():
    for method in FRONTIER_METHODS.values():
        assert method.start == "base" or FRONTIER_METHODS[method.start].start == "base"
        assert (CONFIGS / method.recipe).is_file()


def test_the_base_is_in_the_table_at_one_token_per_forward():
    assert "base" in STUDIES["methods"].methods
    assert "one_token" in {spec.name for spec in STUDIES["methods"].decoders_of("base")}
