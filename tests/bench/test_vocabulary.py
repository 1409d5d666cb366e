import json
from pathlib import Path

import pytest
import torch

from dmaxlit import UserError, load
from dmaxlit.bench import VocabularyBench, vocabulary
from dmaxlit.bench.vocabulary import grow_vocabulary
from dmaxlit.noise import NOISE
from dmaxlit.randomness import RowGenerator
from dmaxlit.tokens import CleanBatch

CONFIGS = Path(__file__).parents[2] / "configs"
SETTINGS = {"num_prompts": 4, "steps": 1, "num_examples": 2}


def bench(output, **settings):
    chosen = {"sizes": (38, 64), "seeds": (0,), "methods": ("uniform",), **SETTINGS}
    return VocabularyBench(output, CONFIGS, **{**chosen, **settings})


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grown") / "model"
    grow_vocabulary("builtin:chain-base", 500, folder)
    return folder


def test_a_grown_model_keeps_its_ids_and_its_answers(grown):
    small, large = load("builtin:chain-base"), load(grown)
    assert large.special.vocab_size == len(large.tokenizer) == 500
    assert large.special.mask_id == small.special.mask_id
    torch.testing.assert_close(large.backbone.embedding[:38], small.backbone.embedding, rtol=0, atol=0)
    (example,) = large.task().examples("test", 1)
    (answer,) = large.generate([example.prompt], decoder="threshold")
    assert example.check(answer.text)
    assert "unused" not in answer.text


def test_uniform_noise_draws_the_added_ids_too(grown):
    special = load(grown).special
    ids = torch.ones(64, 32, dtype=torch.long)
    clean = CleanBatch(ids, torch.full_like(ids, 2), 32, special)
    dialogue = NOISE.get("uniform")(level=1.0).views(clean, RowGenerator(0, list(range(64))))
    drawn = [view.ids for view in dialogue][1]
    assert len(drawn.unique()) > 480


def test_growing_is_the_same_twice_and_leaves_a_model_alone(grown, tmp_path):
    grow_vocabulary("builtin:chain-base", 500, tmp_path / "again")
    torch.testing.assert_close(
        load(tmp_path / "again").backbone.embedding, load(grown).backbone.embedding, rtol=0, atol=0
    )
    before = (grown / "model.safetensors").stat().st_mtime_ns
    grow_vocabulary("builtin:chain-base", 600, grown)
    assert (grown / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": ("magic",)}, "methods: expected some of control, uniform, on_policy, got 'magic'"),
        ({"sizes": ()}, "sizes: expected at least one, got none"),
        ({"seeds": ()}, "seeds: expected at least one, got none"),
        ({"methods": ()}, "methods: expected at least one, got none"),
        ({"steps": 0}, "steps: expected at least 1"),
    ],
)
def test_bad_settings_are_refused(tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        bench(tmp_path, **settings)


def test_methods_train_at_the_same_compute(tmp_path, monkeypatch):
    steps = {}
    monkeypatch.setattr(vocabulary, "distilled_corpus", lambda *_: "corpus.jsonl")
    monkeypatch.setattr(
        vocabulary, "trained_model", lambda folder, recipe, seed, *options: steps.update({recipe.stem: options[-2]})
    )
    for method in vocabulary.RECIPES:
        bench(tmp_path, steps=400)._trained(method, 38, 0)
    # Passes of a step: clean and masked; and a third one of noise.
    assert steps == {
        "control": "--trainer.max_steps=600",
        "uniform": "--trainer.max_steps=400",
        "quickstart": "--trainer.max_steps=400",
    }


def test_fewer_ids_than_the_base_has_are_refused(tmp_path):
    with pytest.raises(UserError, match="sizes: expected at least the 38 token ids of builtin:chain-base, got 37"):
        bench(tmp_path, sizes=(37,)).run()


def test_results_of_other_settings_are_not_mixed_in(tmp_path):
    (tmp_path / "settings.json").write_text(json.dumps({**SETTINGS, "steps": 7}))
    with pytest.raises(UserError, match="steps: expected 7"):
        bench(tmp_path).run()


@pytest.mark.slow
def test_models_of_every_size_are_trained_and_tabulated(tmp_path, fits_in_process):
    grown = bench(tmp_path)
    table = grown.run()
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == table + "\n"
    rows = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
    assert rows[0] == "38 ids, uniform / threshold 0.95"
    assert rows[6] == "64 ids, uniform / threshold 0.95"
    assert len(load(tmp_path / "uniform-64-0" / "model").backbone.embedding) == 64
    assert grown.run() == table
