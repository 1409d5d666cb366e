import warnings

import pytest
import torch

from dmaxlit import UserError
from dmaxlit.backbone.frozen_features import FrozenFeatures
from dmaxlit.backbone.lora import LoraSettings
from tests.conftest import make_batch, make_denoiser


def slow_features(denoiser, clean, ids, row, layer):
    """Return a row's hidden states after a layer, block by block: each with the clean blocks before it, alone."""
    length, out = clean.block_length, []
    for start in range(0, clean.ids.shape[1], length):
        inputs = torch.cat([clean.ids[row, :start], ids[row, start : start + length]])[None]
        block = torch.arange(inputs.shape[1]) // length
        allowed = (block[:, None] >= block[None, :])[None]
        allowed = allowed & (clean.roles[row, : inputs.shape[1]] != 0)[None, None]
        allowed = allowed | torch.eye(inputs.shape[1], dtype=torch.bool)
        mask = torch.zeros(allowed.shape).masked_fill(~allowed, -torch.inf)[:, None]
        positions = torch.arange(inputs.shape[1])[None]
        output = denoiser.model.base_model(
            input_ids=inputs, attention_mask=mask, position_ids=positions, output_hidden_states=True
        )
        out.append(output.hidden_states[layer + 1][0, start:])
    return torch.cat(out)


@pytest.mark.parametrize("lora", [False, True])
def test_features_are_those_of_the_model_at_the_start_after_the_layer(lora):
    denoiser = make_denoiser(sharpen=5.0, attention_dropout=0.5)  # which features do without
    clean = make_batch(special=denoiser.special)
    reference = make_denoiser(sharpen=5.0)
    if lora:
        denoiser.add_lora(LoraSettings(r=2, dropout=0.5))
    features = FrozenFeatures(denoiser, 0)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            if parameter.requires_grad:
                parameter += 0.3
    ids = torch.where(clean.response, (clean.ids + 1) % 35, clean.ids)
    found = features(clean, ids)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert denoiser.model.training
    for row in range(3):
        expected = slow_features(reference, clean, ids, row, 0)
        where = clean.response[row]
        torch.testing.assert_close(found[row][where], expected[where], atol=1e-4, rtol=1e-4)


def test_only_the_first_layers_are_copied():
    denoiser = make_denoiser(recompute=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a name that transformers has given up
        copied = FrozenFeatures(denoiser, 0)._trunk.model
    assert not copied.is_activation_checkpointing
    assert len(copied.layers) == 1
    assert len(denoiser.model.model.layers) == 2
    assert not any(parameter.requires_grad for parameter in copied.parameters())


def test_with_adapters_nothing_is_copied_and_they_are_on_again():
    denoiser, clean = make_denoiser(), make_batch(special=make_denoiser().special)
    denoiser.add_lora(LoraSettings(r=2))
    features = FrozenFeatures(denoiser, 1)
    assert features._trunk.model is denoiser.model
    features(clean, clean.ids)
    layer = denoiser.model.model.layers[0].self_attn.q_proj
    assert layer.scaling == {"default": 16.0}
    assert all(parameter.requires_grad for name, parameter in layer.named_parameters() if "lora" in name)


@pytest.mark.parametrize("lora", [False, True])
def test_layers_after_it_are_not_computed(lora):
    denoiser, clean = make_denoiser(), make_batch(special=make_denoiser().special)
    if lora:
        denoiser.add_lora(LoraSettings(r=2))
    features, computed = FrozenFeatures(denoiser, 0), []
    for number, layer in enumerate(features._trunk.model.base_model.layers):
        layer.register_forward_hook(lambda module, inputs, output, number=number: computed.append(number))
    features(clean, clean.ids)
    assert computed == [0, 0], "the clean copy and the sequence"
    computed.clear()
    with torch.no_grad():
        denoiser.model(clean.ids[:1])
    assert computed == ([0, 1] if lora else []), "the model itself ends where it did"


@pytest.mark.parametrize("layer", [-1, 2, 40])
def test_a_layer_that_does_not_exist_is_refused(layer):
    with pytest.raises(UserError, match=f"noise.layer: expected 0 to 1, since the model has 2 layers, got {layer}"):
        FrozenFeatures(make_denoiser(), layer)


def test_a_sharded_model_is_refused(monkeypatch):
    monkeypatch.setattr("dmaxlit.backbone.frozen_features.is_sharded", lambda denoiser: True)
    with pytest.raises(UserError, match="noise: expected an unsharded model"):
        FrozenFeatures(make_denoiser(), 0)
