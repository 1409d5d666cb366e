import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from dmaxlit.backbone import TrainingForward
from dmaxlit.backbone.eval_mode import evaluating, has_dropout
from dmaxlit.backbone.lora import LoraSettings
from tests.conftest import make_batch, make_denoiser

GPT2 = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 8, "vocab_size": 8}
GPT2 |= {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
LLAMA = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 8}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "qwen3", **LLAMA}, False),
        ({"model_type": "qwen3", **LLAMA, "attention_dropout": 0.1}, True),
        (GPT2, False),  # of the heads that its config has dropout for, a denoiser has none
        ({**GPT2, "resid_pdrop": 0.1}, True),
        ({**GPT2, "attn_pdrop": 0.1}, True),
        ({"model_type": "persimmon", **LLAMA, "attention_dropout": 0.1, "hidden_dropout": 0.0}, True),
        (
            {"model_type": "opt", "layerdrop": 0.1, "dropout": 0.0, "ffn_dim": 8, **LLAMA, "word_embed_proj_dim": 8},
            True,
        ),
    ],
)
def test_dropout_is_found(config, expected):
    config = dict(config)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(config.pop("model_type"), **config))
    assert has_dropout(model.train()) is expected
    assert not has_dropout(model.eval())


def test_dropout_of_adapters_is_found():
    found = []
    for rate in (0.0, 0.1):
        denoiser = make_denoiser()
        denoiser.add_lora(LoraSettings(r=2, dropout=rate))
        found.append(has_dropout(denoiser.model))
    assert found == [False, True]


def test_each_module_gets_its_own_mode_back():
    model = make_denoiser().model
    frozen = model.model.layers[0].eval()
    with evaluating(model.modules()):
        assert not any(module.training for module in model.modules())
    assert not any(module.training for module in frozen.modules())
    assert model.training
    assert model.model.layers[1].training


def counted(denoiser):
    """Return a list that grows by the mode of each forward."""
    modes = []
    denoiser.model.base_model.register_forward_pre_hook(lambda module, inputs: modes.append(module.training))
    return modes


@pytest.mark.parametrize("doubled", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
def test_a_view_without_loss_is_computed_as_in_eval_mode(doubled, recompute):
    denoiser = make_denoiser(sharpen=5.0, attention_dropout=0.5, recompute=recompute)
    clean = make_batch(special=denoiser.special)
    view = clean.with_masks(clean.response)
    expected = TrainingForward(make_denoiser(sharpen=5.0).eval(), clean)(view)[clean.response]
    modes, forward = counted(denoiser), TrainingForward(denoiser, clean, doubled)
    trained = forward(view)[clean.response]
    for _ in range(2):
        found = forward.evaluate(view)[clean.response]
        assert not found.requires_grad
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)
    assert denoiser.model.training
    assert (trained - expected).abs().max() > 0.01
    assert (forward(view)[clean.response] - expected).abs().max() > 0.01
    # The clean copy without dropout is computed once for all views.
    assert modes == ([True, False, False, True] if doubled else [True, True, False, False, False, True])


def test_without_dropout_nothing_is_computed_again():
    denoiser = make_denoiser(sharpen=5.0)
    clean = make_batch(special=denoiser.special)
    modes, forward = counted(denoiser), TrainingForward(denoiser, clean)
    assert torch.equal(forward.evaluate(clean.ids), forward(clean.ids))
    assert modes == [True, True, True]
