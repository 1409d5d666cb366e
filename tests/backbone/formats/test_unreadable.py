"""Checkpoints that cannot be read are refused in one line, and nothing is left behind."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import dmaxlit
from dmaxlit import UserError
from dmaxlit.backbone import Denoiser
from dmaxlit.backbone.formats.convert import convert
from tests.backbone.formats.llada2_published import CONFIG, make_tensors, stack_experts, write_published


def change(path, **changes):
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, **changes}))


def rewrite(folder, change_tensors):
    """Write the first shard again with other tensors."""
    path = sorted(folder.glob("*.safetensors"))[0]
    tensors = load_file(path)
    change_tensors(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def missing_shard(folder):
    (folder / "model-00002-of-00003.safetensors").unlink()


def truncated(folder):
    path = folder / "model-00002-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def wrong_dtype(folder):
    def cast(tensors):
        name = next(iter(tensors))
        tensors[name] = tensors[name].to(torch.int8)

    rewrite(folder, cast)


def wrong_shape(folder):
    def narrow(tensors):
        name = next(name for name in tensors if "down_proj" in name)
        tensors[name] = tensors[name][:, :-1].contiguous()

    rewrite(folder, narrow)


def not_in_its_file(folder):
    rewrite(folder, lambda tensors: tensors.pop(next(iter(tensors))))


def not_in_the_index(folder):
    path = folder / "model.safetensors.index.json"
    placed = json.loads(path.read_text())["weight_map"]
    change(path, weight_map={**placed, "model.layers.9.oops": placed["lm_head.weight"]})


def other_architecture(folder):
    for path in folder.glob("*.safetensors"):
        path.unlink()
    (folder / "model.safetensors.index.json").unlink()
    save_file({"model.embed_tokens.weight": torch.zeros(4, 4)}, folder / "model.safetensors")


def pickled(folder):
    other_architecture(folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")


def stacked_otherwise(folder):
    for path in folder.glob("*.safetensors"):
        path.unlink()
    (folder / "model.safetensors.index.json").unlink()
    tensors = stack_experts(make_tensors())
    save_file({name.replace("_proj", "_proj.weight") if name.endswith("_proj") else name: t for name, t in
               tensors.items()}, folder / "model.safetensors")  # fmt: skip


def out_of_the_folder(folder):
    path = folder / "model.safetensors.index.json"
    change(path, weight_map={"lm_head.weight": "../../secret.safetensors"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (missing_shard, r"index.json' names model-00002-of-00003.safetensors, which does not exist"),
        (truncated, r"model-00002-of-00003.safetensors' cannot be read, it may be truncated"),
        (wrong_dtype, r"model-00001-of-00003.safetensors: \S+: expected one of F32, BF16, F16, got I8"),
        (wrong_shape, r"down_proj.weight: expected shape \[32, \d+\], got \[32, \d+\]"),
        (
            not_in_its_file,
            r"model-00001-of-00003.safetensors' lacks \S+, which model.safetensors.index.json locates there",
        ),
        (not_in_the_index, r"lacks model.layers.9.oops"),
        (other_architecture, r"expected the weights of LLaDA2-MoE, got 130 missing \(such as model.word_emb.* 1 left"),
        (pickled, r"expected safetensors in .*, got pickle \(pytorch_model.bin\).*weights_only=True"),
        (stacked_otherwise, r"expected the weights of LLaDA2-MoE, got 96 missing .* 6 left over"),
        (out_of_the_folder, r"expected a weight_map that names files of the same folder"),
    ],
)
@pytest.mark.parametrize("way", ["load", "convert"])
def test_a_checkpoint_that_cannot_be_read_is_refused_in_one_line(tmp_path, damage, message, way):
    folder = write_published(tmp_path / "m")
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        dmaxlit.load(folder) if way == "load" else convert(folder, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_model_that_only_its_own_code_could_load_is_refused_in_one_line_and_nothing_else(tmp_path, capfd):
    folder = write_published(tmp_path / "m", {**CONFIG, "model_type": "llada9_moe"})
    with pytest.raises(
        UserError, match=r"got 'llada9_moe' in .*; code that comes with a checkpoint is not run"
    ) as caught:
        Denoiser(pretrained=str(folder))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_pickle_of_any_model_is_refused_with_the_way_to_convert_it(tmp_path, denoiser):
    denoiser.save(tmp_path / "m", {})
    (tmp_path / "m" / "model.safetensors").rename(tmp_path / "m" / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"got pickle \(pytorch_model.bin\).*save_file"):
        Denoiser(pretrained=str(tmp_path / "m"))


def test_a_hub_that_cannot_be_reached_is_said_quickly_in_one_line(monkeypatch, tmp_path):
    import time

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    start = time.monotonic()
    with pytest.raises(UserError, match=r"pretrained: 'someone/LLaDA2.0-none' is not a local folder") as caught:
        Denoiser(pretrained="someone/LLaDA2.0-none")
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 5


# ---- the folders that export writes ---------------------------------------------------------------------------------


@pytest.fixture
def exported(denoiser, tmp_path):
    denoiser.save(tmp_path / "model", {})
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {"head_dim": 0}),
        ("config.json", {"vocab_size": "x"}),
        ("config.json", {"num_hidden_layers": 7, "layer_types": ["full_attention"]}),
        ("config.json", {"hidden_size": None}),
        ("config.json", {"model_type": ["qwen3"]}),
        ("config.json", {"rope_parameters": 5, "rope_theta": None}),
        ("tokenizer_config.json", {"eos_token": 5}),
        ("tokenizer_config.json", {"tokenizer_class": "NoSuchTokenizer", "added_tokens_decoder": [1]}),
        ("dmaxlit.json", {"block_length": "x"}),
    ],
)
def test_a_setting_of_another_type_is_one_line_naming_the_folder(exported, file, changes):
    change(exported / file, **changes)
    with pytest.raises(UserError) as caught:
        dmaxlit.load(exported)
    assert str(exported) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.float8_e4m3fn])
def test_weights_that_are_no_numbers_to_compute_with_are_refused(exported, dtype):
    path = exported / "model.safetensors"
    save_file({name: w.to(dtype) for name, w in load_file(path).items()}, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"weight: expected one of F32, BF16, F16, got [IF]"):
        dmaxlit.load(exported)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(exported, value):
    path = exported / "model.safetensors"
    weights = load_file(path)
    next(weight for name, weight in weights.items() if "mlp" in name).view(-1)[3] = value
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"mlp.*weight: expected finite numbers, got nan or inf in float32"):
        dmaxlit.load(exported)


def test_weights_beyond_the_range_of_the_type_asked_for_are_refused(exported):
    path = exported / "model.safetensors"
    weights = load_file(path)
    next(weight for name, weight in weights.items() if "mlp" in name).view(-1)[3] = 1e6
    save_file(weights, path, metadata={"format": "pt"})
    dmaxlit.load(exported)
    with pytest.raises(UserError, match=r"expected finite numbers, got nan or inf in float16"):
        dmaxlit.load(exported, dtype="float16")
