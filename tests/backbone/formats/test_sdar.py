import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Qwen3ForCausalLM

import dmaxlit
from dmaxlit import UserError
from dmaxlit.backbone import Denoiser
from dmaxlit.cli import main
from dmaxlit.errors import DMaxWarning
from tests.backbone.formats.llada2_published import write_tokenizer
from tests.backbone.formats.test_llada2 import blockwise, logits_of
from tests.conftest import make_denoiser

CONFIG = {
    "architectures": ["SDARForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {"AutoModelForCausalLM": "modeling_sdar.SDARForCausalLM"},
    "block_size": 4,
    "eos_token_id": 256,
    "fuse_cross_entropy": True,
    "head_dim": 16,
    "hidden_act": "silu",
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "mask_token_id": 259,
    "max_position_embeddings": 128,
    "max_window_layers": 2,
    "model_type": "sdar",
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 272,
}


@pytest.fixture
def published(tmp_path):
    folder = tmp_path / "SDAR-tiny"
    folder.mkdir()
    rope = {"rope_type": "default", "rope_theta": 1000000.0}
    model = make_denoiser(vocab_size=272, tie_word_embeddings=False, rope_parameters=rope).model
    save_file(dict(model.state_dict()), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "modeling_sdar.py").write_text("raise RuntimeError('this is never run')\n")
    write_tokenizer(folder, special=["<|endoftext|>", "<role>", "</role>", "<|MASK|>"])
    return folder


def test_it_is_a_qwen3_with_its_own_block_length_and_mask(published):
    denoiser = Denoiser(pretrained=str(published))
    assert type(denoiser.model) is Qwen3ForCausalLM
    assert denoiser.block_length == 4
    assert (denoiser.special.mask_id, denoiser.special.eos_id) == (259, 256)
    assert Denoiser(pretrained=str(published), block_length=8).block_length == 8
    weights = load_file(published / "model.safetensors")
    assert all(torch.equal(weights[name], tensor) for name, tensor in denoiser.model.state_dict().items())
    assert denoiser.model.config.rope_parameters["rope_theta"] == 1000000.0


@pytest.mark.parametrize(
    ("name", "field", "length"),
    [
        ("SDAR-8B-Chat-b32", {}, 32),
        ("MBD-SDAR-8B-Chat-b8-math", {"block_size": None}, 8),
        ("SDAR-8B-Chat-b32", {"block_size": 16}, 16),
    ],
)
def test_a_block_length_that_the_config_does_not_say_is_that_of_the_name(published, name, field, length):
    config = {key: value for key, value in CONFIG.items() if key != "block_size"} | field
    (published / "config.json").write_text(json.dumps(config))
    assert Denoiser(pretrained=str(published.rename(published.with_name(name)))).block_length == length


def test_a_block_length_that_nothing_says_is_guessed_aloud_and_can_be_set(published, tmp_path):
    (published / "config.json").write_text(json.dumps({k: v for k, v in CONFIG.items() if k != "block_size"}))
    published = published.rename(published.with_name("SDAR-tiny-b200"))  # there are none with such blocks
    warning = r"^block_length: taken to be 4, which neither .* of '.*SDAR-tiny-b200' says; .*load$"
    with pytest.warns(DMaxWarning, match=warning):
        assert Denoiser(pretrained=str(published)).block_length == 4
    assert dmaxlit.load(published, block_length=8).backbone.block_length == 8
    main(["export", "--model", str(published), "--block_length", "8", "--output", str(tmp_path / "out")])
    assert dmaxlit.load(tmp_path / "out").backbone.block_length == 8
    assert dmaxlit.load(tmp_path / "out", block_length=16).backbone.block_length == 16


def test_switches_of_its_training_framework_change_nothing(published):
    switches = {"attn_implementation": "flex_attention", "debug": False, "ep_size": 1, "micro_forward": False}
    switches |= {"skip_checkpoint": False, "use_deepep": False}
    (published / "config.json").write_text(json.dumps({**CONFIG, **switches}))
    config = Denoiser(pretrained=str(published)).model.config
    assert config._attn_implementation == "sdpa"
    assert not switches.keys() & config.to_dict().keys()


def test_its_weights_are_read_by_slices_only_from_the_export_that_is_asked_for(published, tmp_path):
    with pytest.raises(UserError, match=r"backbone.defer: .* `dmaxlit export --model .*SDAR-tiny --output FOLDER`"):
        Denoiser(pretrained=str(published), defer=True)
    main(["export", "--model", str(published), "--output", str(tmp_path / "out")])
    assert Denoiser(pretrained=str(tmp_path / "out"), defer=True).is_deferred


def test_it_decodes_and_its_export_is_an_ordinary_qwen3(published, tmp_path):
    module = dmaxlit.load(published)
    (answer,) = module.generate(["2 + 2 = ?"], decoder="threshold", max_new_tokens=16)
    assert 0 < answer.num_tokens <= 16
    module.export(tmp_path / "out")
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path / "out")) is Qwen3ForCausalLM
    again = dmaxlit.load(tmp_path / "out")
    assert (again.backbone.block_length, again.special) == (4, module.special)
    ids = torch.arange(24)
    expected = logits_of(module.backbone, ids, blockwise(24, 4))
    assert torch.equal(logits_of(again.backbone, ids, blockwise(24, 4)), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_regular_causal": True}, "expected only known fields of SDAR, got use_regular_causal"),
        ({"use_sliding_window": True}, "use_sliding_window: expected False, got True"),
        ({"rope_scaling": {"type": "yarn"}}, "rope_scaling: expected None"),
        ({"num_hidden_layers": 3}, "expected the weights of SDAR, got others, such as model.layers.2"),
        ({"intermediate_size": 40}, "expected the weights of SDAR"),
        ({"vocab_size": "many"}, "vocab_size"),
        ({"mask_token_id": 999}, "tokenizer: expected a mask token, found none"),
    ],
)
def test_what_is_not_understood_is_refused_in_one_line(published, changes, message):
    (published / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    with pytest.raises(UserError, match=message) as caught:
        Denoiser(pretrained=str(published))
    assert "\n" not in str(caught.value)


def test_a_size_is_not_guessed(published):
    (published / "config.json").write_text(json.dumps({k: v for k, v in CONFIG.items() if k != "head_dim"}))
    with pytest.raises(UserError, match="expected the field head_dim, found none"):
        Denoiser(pretrained=str(published))
