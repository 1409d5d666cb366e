"""An export says what it is: in its card, and when transformers is asked to generate with it."""

import json
import re

import lightning as L
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, GenerationConfig

import dmaxlit
from dmaxlit import DMaxModule, UserError
from dmaxlit.backbone.formats.hub import BUILTIN_MODELS
from dmaxlit.backbone.formats.metadata import check_metadata
from dmaxlit.backbone.formats.model_card import make_card
from dmaxlit.callbacks import NextTokenTraining
from dmaxlit.evaluation.autoregressive import AutoregressiveModel
from tests.test_module import QUIET, sgd

QUESTION = "3 + 4 * 2"


@pytest.fixture
def module():
    return dmaxlit.load("builtin:chain-base")


def front_matter(folder):
    text = (folder / "README.md").read_text()
    return yaml.safe_load(text.split("---\n")[1])


def test_the_card_says_how_the_model_is_loaded_and_decoded(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module.export("m")
    assert front_matter(tmp_path / "m")["library_name"] == "dmaxlit"
    card = (tmp_path / "m" / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    exec(code, {})
    assert "- Block length: 32 tokens\n" in card
    assert "- Trained from: `builtin:chain-base`\n" in card
    assert "- Task: `chain`\n" in card


def test_it_names_the_base_model_and_how_it_was_trained(module):
    metadata = {"base_model": "Qwen/Qwen3-0.6B", "training": {"noise": "oput", "steps": 400}}
    card = make_card("m", module.backbone.model.config, metadata)
    assert yaml.safe_load(card.split("---\n")[1]) == {
        "library_name": "dmaxlit",
        "base_model": "Qwen/Qwen3-0.6B",
        "tags": ["diffusion-language-model", "block-diffusion", "qwen3"],
    }
    assert "- Trained with noise: `oput`, 400 steps\n" in card
    assert "None" not in card


def test_what_is_known_of_a_model_survives_further_exports(module, tmp_path):
    module.backbone.source_metadata["training"] = {"noise": "oput", "steps": 400}
    module.export(tmp_path / "one")
    dmaxlit.load(tmp_path / "one").export(tmp_path / "two")
    one, two = (json.loads((tmp_path / name / "dmaxlit.json").read_text()) for name in ("one", "two"))
    assert two["training"] == one["training"] == {"noise": "oput", "steps": 400}
    assert two["base_model"] == one["base_model"] == "builtin:chain-base"


@pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore:.*does not have many workers")
def test_noise_and_steps_of_the_training_are_stored(module, tmp_path):
    trained = DMaxModule(module.backbone, "uniform", optimizer=sgd)
    ids = torch.randint(0, 30, (2, 32))
    rows = [{"ids": row, "roles": torch.full_like(row, 2), "index": torch.tensor(i)} for i, row in enumerate(ids)]
    trainer = L.Trainer(**{**QUIET, "enable_checkpointing": True}, max_steps=2, default_root_dir=tmp_path)
    trainer.fit(trained, torch.utils.data.DataLoader(rows, batch_size=1))
    trainer.save_checkpoint(tmp_path / "m.ckpt")
    trained.export(tmp_path / "one")
    dmaxlit.load(tmp_path / "m.ckpt").export(tmp_path / "two")
    for folder in ("one", "two"):
        assert "- Trained with noise: `uniform`, 2 steps\n" in (tmp_path / folder / "README.md").read_text()


@pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore:.*does not have many workers")
def test_a_model_trained_on_the_next_token_says_so_and_transformers_generates_with_it(module, tmp_path):
    module.backbone.source_metadata["training"] = {"noise": "oput", "steps": 400}
    trained = DMaxModule(module.backbone, "uniform", optimizer=sgd)
    rows = [{"ids": torch.arange(32) % 30, "roles": torch.full((32,), 2), "index": torch.tensor(0)}]
    trainer = L.Trainer(**QUIET, max_steps=1, callbacks=[NextTokenTraining()])
    trainer.fit(trained, torch.utils.data.DataLoader(rows))
    trainer.save_checkpoint(tmp_path / "m.ckpt")
    trained.export(tmp_path / "one")
    dmaxlit.load(tmp_path / "m.ckpt").export(tmp_path / "two")
    dmaxlit.load(tmp_path / "two").export(tmp_path / "three")
    for name in ("one", "two", "three"):
        assert json.loads((tmp_path / name / "dmaxlit.json").read_text())["training"] == {
            "objective": "next token",
            "steps": 1,
        }
        card = (tmp_path / name / "README.md").read_text()
        assert "- Trained on: `next token`, 1 steps\n" in card
        assert "oput" not in card
        assert "An autoregressive language model" in card
        assert front_matter(tmp_path / name)["tags"] == ["qwen3"]
        model = AutoModelForCausalLM.from_pretrained(tmp_path / name)
        assert model.generate(torch.tensor([[5]]), max_new_tokens=2, min_new_tokens=2).shape == (1, 3)
    with pytest.raises(UserError, match=r"^a: expected an autoregressive model, got .*, a diffusion model"):
        AutoregressiveModel.load(str(BUILTIN_MODELS / "chain-base"), "a", torch.device("cpu"), "float32")
    assert AutoregressiveModel.load(str(tmp_path / "one"), "a", torch.device("cpu"), "float32")
    adapted = DMaxModule(dmaxlit.load(tmp_path / "one").backbone, "uniform", optimizer=sgd)
    L.Trainer(**QUIET, max_steps=2).fit(adapted, torch.utils.data.DataLoader(rows * 2))
    adapted.export(tmp_path / "adapted")
    assert "A diffusion language model" in (tmp_path / "adapted" / "README.md").read_text()
    assert "on purpose" in (tmp_path / "adapted" / "generation_config.json").read_text()


def test_an_objective_of_ones_own_is_named(module):
    card = make_card("m", module.backbone.model.config, {"training": {"objective": "my own", "steps": 3}})
    assert "- Trained on: `my own`, 3 steps\n" in card
    assert "A diffusion language model" in card


def test_a_card_of_the_user_is_kept_and_one_of_ours_is_renewed(module, tmp_path):
    card = tmp_path / "m" / "README.md"
    module.export(tmp_path / "m")
    assert "2 steps" not in card.read_text()
    module.backbone.source_metadata["training"] = {"noise": "oput", "steps": 2}
    module.export(tmp_path / "m")
    assert "2 steps" in card.read_text()
    mine = card.read_bytes() + b"My measurements.\r\n\xff"
    for _ in range(2):
        card.write_bytes(mine)
        module.export(tmp_path / "m")
        assert card.read_bytes() == mine


def test_what_no_export_writes_is_kept_and_what_only_an_earlier_one_wrote_is_not(module, tmp_path):
    folder = tmp_path / "m"
    module.export(folder)
    exported = {path.name for path in folder.iterdir()}
    mine = [".git/config", "pictures/curve.png", "notes.txt"]
    others = ["model-00001-of-00002.safetensors", "model.safetensors.index.json", "added_tokens.json"]
    others += ["auxiliary/model.safetensors", "additional_chat_templates/x.jinja", "sglang.yaml"]
    for name in (*mine, *others):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    module.export(folder)
    assert {path.name for path in folder.iterdir()} == exported | {".git", "pictures", "notes.txt"}
    assert [(folder / name).read_text() for name in mine] == mine


def test_a_damaged_metadata_file_of_an_earlier_export_is_replaced(module, tmp_path):
    module.export(tmp_path / "m")
    (tmp_path / "m" / "dmaxlit.json").write_text("{")
    module.export(tmp_path / "m")
    assert dmaxlit.load(tmp_path / "m").task_name == "chain"


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"max_new_tokens": 3},
        {"do_sample": True, "temperature": 0.7, "top_k": 3},
        {"num_beams": 2, "max_new_tokens": 3},
        {"generation_config": GenerationConfig(max_new_tokens=3)},
    ],
)
def test_transformers_loads_it_but_refuses_to_generate(module, tmp_path, arguments):
    module.export(tmp_path / "m")
    dmaxlit.load(tmp_path / "m").export(tmp_path / "again")
    for folder in ("m", "again"):
        model = AutoModelForCausalLM.from_pretrained(tmp_path / folder)
        ids = torch.tensor([[5, 6, 7]])
        assert model(ids).logits.shape[:2] == (1, 3)
        with pytest.raises(ValueError, match=r"diffusion language model.*dmaxlit\.load\(FOLDER\)\.generate"):
            model.generate(ids, **arguments)
    model.generation_config.bad_words_ids = None  # as the card says
    assert model.generate(ids, max_new_tokens=2, min_new_tokens=2).shape == (1, 5)


def test_dmaxlit_reads_the_same_from_it(module, tmp_path):
    module.export(tmp_path / "m")
    (ours,), (copied,) = (
        model.generate(QUESTION, max_new_tokens=64) for model in (module, dmaxlit.load(tmp_path / "m"))
    )
    assert copied.token_ids == ours.token_ids


def test_the_shipped_model_refuses_too(module):
    model = AutoModelForCausalLM.from_pretrained(dmaxlit.backbone.formats.hub.BUILTIN_MODELS / "chain-base")
    with pytest.raises(ValueError, match="diffusion language model"):
        model.generate(torch.tensor([[5]]))


@pytest.mark.parametrize(
    ("metadata", "refusal"),
    [
        ({"base_model": "a\nlicense: mit"}, "base_model: expected the name of a model"),
        ({"base_model": 3}, "base_model: expected the name of a model"),
        ({"task": {"name": "chain`\n<img src=x>"}}, "task: expected an object with a name and options"),
        ({"task": {"name": "<b>chain</b>", "options": {}}}, "task: expected an object with a name and options"),
        ({"training": [1]}, "training: expected an object with noise or objective, and steps"),
        ({"training": {"objective": "a\nb", "steps": 1}}, "training: expected an object with noise or objective"),
        ({"auxiliary_training": {"noise": "x"}}, "auxiliary_training: expected an object with noise or objective"),
        ({"training": {"noise": "`x`\n# y", "steps": 1}}, "training: expected"),
        ({"training": {"noise": "oput"}}, "training: expected"),
    ],
)
def test_metadata_that_would_forge_a_card_are_refused(metadata, refusal):
    with pytest.raises(UserError, match=refusal):
        check_metadata(metadata, "file")
