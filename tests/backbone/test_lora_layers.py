"""On which layers adapters stand, in every family, and what is refused."""

import re
import sys

import lightning as L
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from dmaxlit import DMaxModule, UserError, load
from dmaxlit.backbone import Denoiser, TrainingForward
from dmaxlit.backbone.lora import LoraSettings, merge_weights
from tests.backbone.formats.llada2_published import write_published
from tests.backbone.test_families import EAGER, FAMILIES, checkpoint, plain_tokenizer
from tests.backbone.test_lora import adamw, logits_of, make
from tests.conftest import make_batch, make_denoiser
from tests.test_module import QUIET, loader

pytest.importorskip("peft")

EXPERTS = {"moe_intermediate_size": 16, "num_experts_per_tok": 2, "head_dim": 16}
MODELS = {
    **FAMILIES,
    "glm4_moe": {
        "model_type": "glm4_moe",
        **EXPERTS,
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "n_shared_experts": 1,
    },
    "qwen2_moe": {"model_type": "qwen2_moe", **EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 16},
    "qwen3_moe": {"model_type": "qwen3_moe", **EXPERTS, "num_experts": 4},
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "gpt2 untied": {"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2, "tie_word_embeddings": False},
    "xglm": {"model_type": "xglm", "d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 2},
    "llada2": {},
}
ATTENTION = {f"self_attn.{name}_proj" for name in "qkvo"}
MLP = {f"mlp.{name}_proj" for name in ("gate", "up", "down")}
SHARED = {name.replace("mlp.", "mlp.shared_experts.") for name in MLP}
CONV = {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}
LAYERS = {  # of the others: attention and MLP
    "glm4_moe": ATTENTION | MLP | SHARED,
    "llada2": ATTENTION | MLP | SHARED,
    "qwen2_moe": ATTENTION | {name.replace("experts", "expert") for name in SHARED},
    "qwen3_moe": ATTENTION,
    "gpt2": CONV,
    "gpt2 untied": CONV,
    "xglm": {f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")} | {"fc1", "fc2"},
}


def attention_of(name):
    return "eager" if name in {*EAGER, "xglm"} else "sdpa"


def family(folder, name):
    """A denoiser of a family."""
    settings = dict(MODELS[name])
    if name == "llada2":
        return Denoiser(pretrained=str(write_published(folder / "ar")), block_length=8)
    if settings["model_type"] in ("gpt2", "xglm"):
        tied = {} if "untied" in name else {"tie_word_embeddings": True}
        sizes = {"vocab_size": 37, "bos_token_id": None, "eos_token_id": 36, "initializer_range": 0.3}
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(settings.pop("model_type"), **sizes, **{**tied, **settings}), dtype=torch.float32
        )
        model.save_pretrained(folder / "ar")
        plain_tokenizer(folder / "ar")
        source = str(folder / "ar")
    else:
        source = checkpoint(folder / "ar", **settings)
    return Denoiser(pretrained=source, block_length=8, attn_implementation=attention_of(name))


def adapted(denoiser, **settings):
    """A module whose adapters and mask offset are random."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = DMaxModule(denoiser, "on_policy", adamw, lora=LoraSettings(**{"r": 3, **settings})).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "lora_B" in name or "mask_delta" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module


def adapted_layers(module):
    return {name.partition(".lora_A")[0] for name, _ in module.backbone.model.named_parameters() if ".lora_A" in name}


def family_logits(module):
    clean = make_batch(special=module.special)
    view = torch.where(clean.response, clean.special.mask_id, clean.ids)
    with torch.no_grad():
        backbone = module.eval().backbone
        return backbone.logits(TrainingForward(backbone, clean)(view))


def assert_same_logits(actual, expected):
    """Equal but for rounding, relative to the largest logit: products are summed in another order."""
    scale = float(expected[expected.isfinite()].abs().max())
    torch.testing.assert_close(actual, expected, atol=1e-4 * scale, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_adapters_stand_on_the_linear_layers_of_every_family_and_merge(name, tmp_path):
    module = adapted(family(tmp_path, name))
    kinds = {
        layer.partition("layers.")[2].partition(".")[2] or layer.split(".", 3)[-1] for layer in adapted_layers(module)
    }
    assert kinds == LAYERS.get(name, ATTENTION | MLP)
    assert not [n for n, p in module.named_parameters() if p.requires_grad and "lora_" not in n and "delta" not in n]
    expected = family_logits(module)
    module.export(tmp_path / "m")
    again = load(tmp_path / "m", attn_implementation=attention_of(name))
    assert not [n for n in again.state_dict() if "lora" in n or "delta" in n]
    assert_same_logits(family_logits(again), expected)
    plain = again.backbone.model.state_dict()
    before = {n.replace(".base_layer.", "."): w for n, w in module.backbone.model.state_dict().items()}
    assert all((plain[f"{layer}.weight"] != before[f"{layer}.weight"]).any() for layer in adapted_layers(module))


@pytest.mark.parametrize(
    ("name", "target"), [("glm4_moe", "q_proj"), ("glm4_moe", "gate_proj"), ("gpt2", "attn.c_proj")]
)
def test_named_layers_get_adapters_in_every_family(name, target, tmp_path):
    module = adapted(family(tmp_path, name), target_modules=[target])
    layers = [n for n, _ in family(tmp_path / "b", name).model.named_modules() if n.endswith(f".{target}")]
    assert adapted_layers(module) == set(layers)
    expected = family_logits(module)
    module.export(tmp_path / "m")
    assert_same_logits(family_logits(load(tmp_path / "m")), expected)


def test_a_run_on_a_mixture_of_experts_exports_from_its_checkpoint(tmp_path):
    module = DMaxModule(family(tmp_path, "glm4_moe"), "on_policy", adamw, lora=LoraSettings(r=3))
    trainer = L.Trainer(**QUIET, max_steps=1)
    trainer.fit(module, loader())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert_same_logits(family_logits(load(tmp_path / "a.ckpt")), family_logits(module))


def test_an_output_embedding_of_its_own_can_be_adapted_and_a_tied_one_is_refused(tmp_path):
    module = adapted(make_denoiser(tie_word_embeddings=False), target_modules=["lm_head", "q_proj"])
    expected = logits_of(module)
    module.export(tmp_path / "m")
    assert_same_logits(logits_of(load(tmp_path / "m")), expected)
    with pytest.raises(UserError, match="got lm_head, whose weight is tied to another layer's"):
        adapted(make_denoiser(tie_word_embeddings=True), target_modules=["lm_head"])


def test_a_pattern_names_layers():
    layers = adapted_layers(make(target_modules=r".*\.1\..*(q|v)_proj"))
    assert layers == {f"model.layers.1.self_attn.{name}_proj" for name in "qv"}


@pytest.mark.parametrize(
    ("name", "target", "message"),
    [
        ("llama", ["embed_tokens"], "got model.embed_tokens (Embedding)"),
        ("llama", ["q_proj", "c_proj"], "got 'c_proj', which none has"),
        ("llama", ["mlp"], "got model.layers.0.mlp (LlamaMLP)"),
        ("llama", [], "or all-linear, got none"),
        ("llama", "(", "expected a regular expression"),
        ("glm4_moe", ["gate"], "got model.layers.1.mlp.gate (Glm4Moe"),
        ("glm4_moe", ["experts"], "got model.layers.1.mlp.experts (Glm4Moe"),
        ("qwen3_moe", ["down_proj"], "got 'down_proj', which none has"),
        ("gpt2", ["wpe"], "got transformer.wpe (Embedding)"),
    ],
)
def test_what_could_not_be_merged_is_refused_before_training(name, target, message, tmp_path):
    denoiser = family(tmp_path, name)
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        denoiser.add_lora(LoraSettings(target_modules=target))
    assert "\n" not in str(caught.value)
    assert all(parameter.requires_grad for parameter in denoiser.parameters()), "nothing has changed"


def test_layers_and_embeddings_that_compute_something_else_are_refused():
    class Doubling(torch.nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    class Normed(torch.nn.Embedding):
        def forward(self, ids):
            return torch.nn.functional.normalize(super().forward(ids), dim=-1)

    denoiser = make_denoiser()
    layer = denoiser.model.model.layers[0].mlp
    kept, layer.up_proj = layer.up_proj, Doubling(*reversed(layer.up_proj.weight.shape), bias=False)
    with pytest.raises(UserError, match=r"mlp\.up_proj .Doubling., which computes something else"):
        denoiser.add_lora(LoraSettings())
    layer.up_proj = kept
    denoiser.model.set_input_embeddings(Normed(*denoiser.embedding.shape))
    with pytest.raises(UserError, match="embeds tokens by scaled rows of its table, got a Normed"):
        denoiser.add_lora(LoraSettings())


def test_an_adapter_of_stacked_experts_in_an_older_checkpoint_is_one_line(tmp_path):
    weights = {
        "mlp.experts.base_layer.down_proj": torch.ones(2, 3, 3),
        "mlp.experts.lora_A.default.weight": torch.ones(4, 3),
        "mlp.experts.lora_B.default.weight": torch.ones(3, 4),
    }
    with pytest.raises(UserError, match=r"got one of mlp\.experts, which cannot be merged"):
        merge_weights(weights, LoraSettings(), ["embed"], 0, {"q_proj": False})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 0}, "lora: expected r of at least 1"),
        ({"dropout": 1.0}, "dropout in"),
        ({"alpha": float("nan")}, "alpha above 0"),
        ({"target_modules": ["nothing"]}, "lora.target_modules: "),
    ],
)
def test_bad_settings_are_refused_in_one_line(settings, message):
    with pytest.raises(UserError, match=message) as caught:
        make(**settings)
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[lora\]'"):
        make()
