"""The tokens that end a response, and the other generation settings, survive training, checkpoints and exports."""

import json
from pathlib import Path

import lightning as L
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

import dmaxlit
from dmaxlit import DMaxModule, UserError
from dmaxlit.backbone import Denoiser
from dmaxlit.backbone.formats.convert import convert
from dmaxlit.backbone.formats.generation_config import read_generation_config
from dmaxlit.backbone.lora import LoraSettings
from dmaxlit.checkpoints.lightning_file import checkpoint_to_folder
from dmaxlit.engine.end_of_response import eos_ids
from tests.backbone.formats.llada2_published import write_published, write_tokenizer
from tests.backbone.formats.test_sdar import CONFIG as SDAR
from tests.conftest import make_denoiser
from tests.test_module import QUIET, sgd

# Sampling settings without do_sample, as in some published models, are no reason to refuse an export.
SETTINGS = {"eos_token_id": [258, 256], "temperature": 0.7, "top_p": 0.8, "max_new_tokens": 77, "custom": {"a": 1}}

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore:.*does not have many workers")


def qwen3(folder):
    make_denoiser(vocab_size=272).model.save_pretrained(folder)
    write_tokenizer(folder, special=["<|endoftext|>", "<role>", "</role>", "<|mask|>"], mask_token="<|mask|>")


def sdar(folder):
    folder.mkdir()
    rope = {"rope_type": "default", "rope_theta": 1000000.0}
    model = make_denoiser(vocab_size=272, tie_word_embeddings=False, rope_parameters=rope).model
    save_file(dict(model.state_dict()), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(SDAR))
    write_tokenizer(folder, special=["<|endoftext|>", "<role>", "</role>", "<|MASK|>"])


FORMS = {"qwen3": qwen3, "sdar": sdar, "llada2": write_published}


@pytest.fixture(params=FORMS)
def source(request, tmp_path):
    folder = tmp_path / "source"
    FORMS[request.param](folder)
    (folder / "generation_config.json").write_text(json.dumps(SETTINGS))
    return folder


def ends(denoiser):
    return eos_ids(denoiser.model, denoiser.tokenizer)


def assert_kept(folder):
    stored = json.loads((Path(folder) / "generation_config.json").read_text())
    assert {name: stored.get(name) for name in SETTINGS} == SETTINGS
    assert {256, 258} <= ends(Denoiser(str(folder)))


def test_transformers_refuses_to_generate_with_an_export_whatever_the_form(source, tmp_path):
    dmaxlit.load(source).export(tmp_path / "export")
    dmaxlit.load(tmp_path / "export").export(tmp_path / "export")  # replaces itself
    assert_kept(tmp_path / "export")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "export")
    with pytest.raises(ValueError, match="diffusion language model"):
        model.generate(torch.tensor([[5]]), max_new_tokens=3)


def test_they_are_read_whatever_the_form(source):
    assert ends(Denoiser(str(source))) == {256, 258}


@pytest.mark.parametrize("lora", [None, LoraSettings()])
def test_they_survive_training_checkpoint_and_export(source, tmp_path, lora):
    module = DMaxModule(Denoiser(str(source), block_length=8), "masked", optimizer=sgd, lora=lora)
    ids = torch.randint(0, 250, (2, 16))
    rows = [{"ids": row, "roles": torch.full_like(row, 2), "index": torch.tensor(i)} for i, row in enumerate(ids)]
    trainer = L.Trainer(**{**QUIET, "enable_checkpointing": True}, max_steps=1, default_root_dir=tmp_path)
    trainer.fit(module, torch.utils.data.DataLoader(rows, batch_size=2))
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    module.export(tmp_path / "export")
    checkpoint_to_folder(tmp_path / "one.ckpt", tmp_path / "from_checkpoint")
    for folder in ("export", "from_checkpoint"):
        assert_kept(tmp_path / folder)
    assert {256, 258} <= ends(dmaxlit.load(tmp_path / "one.ckpt").backbone)


def test_a_model_whose_weights_are_read_later_has_them(tmp_path):
    qwen3(tmp_path / "m")
    (tmp_path / "m" / "generation_config.json").write_text(json.dumps(SETTINGS))
    assert ends(Denoiser(str(tmp_path / "m"), defer=True)) == {256, 258}


def test_conversion_there_and_back_keeps_them(tmp_path):
    write_published(tmp_path / "m")
    (tmp_path / "m" / "generation_config.json").write_text(json.dumps(SETTINGS))
    convert(tmp_path / "m", tmp_path / "ours")
    assert_kept(tmp_path / "ours")
    with pytest.raises(ValueError, match="diffusion language model"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "ours").generate(torch.tensor([[5]]))
    convert(tmp_path / "ours", tmp_path / "back")
    assert json.loads((tmp_path / "back" / "generation_config.json").read_text()) == SETTINGS


def test_conversion_back_leaves_no_settings_where_there_were_none(tmp_path):
    write_published(tmp_path / "m")
    convert(tmp_path / "m", tmp_path / "ours")
    assert (tmp_path / "ours" / "generation_config.json").is_file()
    convert(tmp_path / "ours", tmp_path / "back")
    assert not (tmp_path / "back" / "generation_config.json").exists()


def test_conversion_refuses_damaged_ones_and_writes_nothing(tmp_path):
    write_published(tmp_path / "m")
    path = tmp_path / "m" / "generation_config.json"
    path.write_text("{")
    with pytest.raises(UserError, match=f"expected generation settings in '{path}'"):
        convert(tmp_path / "m", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_a_checkpoint_of_an_earlier_version_has_none(tmp_path):
    qwen3(tmp_path / "m")
    module = DMaxModule(Denoiser(str(tmp_path / "m"), block_length=8), "masked")
    content = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(content)
    del content["dmaxlit"]["generation_config"]
    torch.save(content, tmp_path / "old.ckpt")
    assert ends(dmaxlit.load(tmp_path / "old.ckpt").backbone) == {256}


@pytest.mark.parametrize("text", ["{", "[1]", "3", '"text"', "\x00", "[" * 100_000])
def test_a_damaged_file_is_refused_by_name(tmp_path, text):
    qwen3(tmp_path / "m")
    path = tmp_path / "m" / "generation_config.json"
    path.write_text(text)
    with pytest.raises(UserError, match=f"pretrained: expected generation settings in '{path}', got others"):
        Denoiser(str(tmp_path / "m"))
    path.unlink()
    assert read_generation_config(tmp_path / "m") is None
