"""Checkpoints whose configuration is refused, before anything else of them is read."""

import json
import math

import pytest
import torch

from dmaxlit import UserError
from dmaxlit.backbone import Denoiser
from dmaxlit.backbone.formats import hub
from dmaxlit.backbone.formats.convert import convert
from dmaxlit.evaluation.autoregressive import AutoregressiveModel
from tests.backbone.formats.llada2_published import CONFIG as LLADA2
from tests.backbone.formats.test_sdar import CONFIG as SDAR
from tests.conftest import TINY


def write_config(folder, **settings):
    """Write a model folder with nothing but a configuration: reading anything else would fail."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**TINY, "vocab_size": 38, **settings}))
    return str(folder)


def refusal(source, **options):
    with pytest.raises(UserError) as caught:
        Denoiser(pretrained=source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("defer", [False, True])
@pytest.mark.parametrize(
    ("quantization", "method"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"bits": 4}, "None"),
        ("int8", "None"),
    ],
)
def test_quantised_weights_are_refused(tmp_path, quantization, method, defer):
    message = refusal(write_config(tmp_path / "m", quantization_config=quantization), defer=defer)
    assert message.startswith(
        f"pretrained: expected weights in float32, bfloat16 or float16, got quantised ones ({method}"
    )


@pytest.mark.parametrize("name", ["attention_dropout", "resid_pdrop"])
@pytest.mark.parametrize("value", [math.nan, -0.5, 1.5, 10**30])
def test_a_dropout_that_is_no_probability_is_refused(tmp_path, name, value):
    source = write_config(tmp_path / "m", **{name: value})
    assert f"config.json': {name}: expected a number from 0 to 1, got {value}" in refusal(source)


@pytest.mark.parametrize("empty", [None, {}])
def test_an_empty_quantisation_is_none(tmp_path, empty):
    assert "expected model.safetensors" in refusal(write_config(tmp_path / "m", quantization_config=empty))


@pytest.mark.parametrize("model_type", ["gemma3", "llama4"])
def test_a_multimodal_model_is_refused_from_a_folder_and_fresh(tmp_path, model_type):
    expected = f"expected a language model, got {model_type}, in which it is only a part \\(text_config\\)"
    source = write_config(tmp_path / "m", model_type=model_type)
    with pytest.raises(UserError, match=f"pretrained: '{source}': {expected}"):
        Denoiser(pretrained=source)
    with pytest.raises(UserError, match=f"backbone.config: {expected}"):
        Denoiser(config={"model_type": model_type}, tokenizer="chain")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"vocab_size": "x"}, "vocab_size"),
        ({"num_hidden_layers": 1, "layer_types": ["full_attention"] * 4}, "num_hidden_layers"),
    ],
)
def test_a_configuration_that_is_not_valid_is_refused_with_the_reason(tmp_path, settings, reason):
    source = write_config(tmp_path / "m", **settings)
    message = refusal(source)
    assert message.startswith(f"pretrained: cannot read the config of {source!r} (")
    assert reason in message


def test_settings_that_no_model_can_be_built_with_are_refused(tmp_path, denoiser):
    denoiser.save(tmp_path / "m", {})
    path = tmp_path / "m" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "head_dim": 0}))
    assert refusal(str(tmp_path / "m")).startswith("pretrained: cannot load a model from")
    assert "config of" in refusal(str(tmp_path / "m"), defer=True)


def test_a_tokenizer_that_cannot_be_read_is_refused(tmp_path, denoiser):
    denoiser.save(tmp_path / "m", {})
    path = tmp_path / "m" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token": 5}))
    assert refusal(str(tmp_path / "m")).startswith("tokenizer: ")


@pytest.mark.parametrize(
    "read",
    [
        lambda source: Denoiser(pretrained=source),
        lambda source: convert(source, "out"),
        lambda source: AutoregressiveModel.load(source, "autoregressive", torch.device("cpu"), "float32"),
    ],
)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({**TINY, "quantization_config": {"quant_method": "awq"}}, r"\(awq\) in 'someone/refused'"),
        ({**SDAR, "use_regular_causal": True}, "expected only known fields of SDAR, got use_regular_causal"),
        ({**LLADA2, "new_field": 1}, "expected only known fields of LLaDA2-MoE, got new_field"),
    ],
)
def test_a_refused_model_on_the_hub_is_not_downloaded(tmp_path, monkeypatch, read, settings, message):
    (tmp_path / "config.json").write_text(json.dumps(settings))
    asked = []

    def snapshot_download(name, allow_patterns, **options):
        asked.extend(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    with pytest.raises(
        UserError, match=f"{message}|expected a model that came from LLaDA2-MoE|got .* a diffusion model"
    ):
        read("someone/refused")
    assert asked
    assert not any("safetensors" in pattern for pattern in asked)
