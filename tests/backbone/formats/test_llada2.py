import json

import pytest
import torch
from transformers import AutoModelForCausalLM, Glm4MoeForCausalLM

import dmaxlit
from dmaxlit import DMaxModule, UserError
from dmaxlit.backbone import Denoiser
from dmaxlit.backbone.formats.convert import convert
from tests.backbone.formats.llada2_published import (
    CONFIG,
    make_tensors,
    read_published,
    reference_logits,
    stack_experts,
    write_published,
    write_tokenizer,
)

VARIANTS = {
    "as mini": {},
    "all experts, no groups": {"n_group": 1, "topk_group": 1},
    "one expert a token": {"num_experts_per_tok": 1},
    "two dense layers, two shared experts": {"first_k_dense_replace": 2, "num_shared_experts": 2},
    "whole rotary": {"partial_rotary_factor": 1.0, "rotary_dim": 16},
    "tied embeddings": {"tie_word_embeddings": True},
    "no dense layer": {"first_k_dense_replace": 0},
    "another scale": {"routed_scaling_factor": 1.7, "rms_norm_eps": 1e-4, "rope_theta": 1000.0},
}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return write_published(tmp_path_factory.mktemp("hub") / "LLaDA2.0-tiny")


def blockwise(length, block=8):
    number = torch.arange(length) // block
    return number[:, None] >= number[None, :]


def logits_of(denoiser, ids, allowed):
    hidden = denoiser.hidden(allowed[None], torch.arange(len(ids))[None], input_ids=ids[None])
    return denoiser.model.get_output_embeddings()(hidden)[0]


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_logits_are_those_of_the_published_architecture(tmp_path, changes):
    config = {**CONFIG, **changes}
    tensors = make_tensors(config, seed=3)
    folder = write_published(tmp_path / "m", config, tensors)
    denoiser = Denoiser(pretrained=str(folder))
    assert type(denoiser.model) is Glm4MoeForCausalLM
    ids = torch.randint(0, 256, (24,), generator=torch.Generator().manual_seed(1))
    expected = reference_logits(tensors, ids, blockwise(24), config)
    torch.testing.assert_close(logits_of(denoiser, ids, blockwise(24)), expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "name",
    ["gate.expert_bias", "query_layernorm.weight", "shared_experts.up_proj.weight", "attention.query_key_value.weight"],
)
def test_the_reference_depends_on_what_is_easily_lost(name):
    tensors = make_tensors(seed=3)
    ids = torch.arange(24)
    before = reference_logits(tensors, ids, blockwise(24))
    changed = {key: tensor.flip(0) if key.endswith(name) else tensor for key, tensor in tensors.items()}
    assert (reference_logits(changed, ids, blockwise(24)) - before).abs().max() > 0.1


def test_weights_are_those_of_the_files_to_the_bit_and_the_router_bias_stays_float32(published):
    tensors = make_tensors()
    model = Denoiser(pretrained=str(published), dtype="bfloat16").model
    weights = model.state_dict()
    layer, at = "model.layers.1.self_attn", "model.layers.1.mlp"
    fused = torch.cat([weights[f"{layer}.{part}_proj.weight"] for part in "qkv"])
    assert torch.equal(fused, tensors["model.layers.1.attention.query_key_value.weight"])
    gate, up = weights[f"{at}.experts.gate_up_proj"][5].chunk(2)
    assert torch.equal(gate, tensors[f"{at}.experts.5.gate_proj.weight"])
    assert torch.equal(up, tensors[f"{at}.experts.5.up_proj.weight"])
    assert weights[f"{at}.gate.e_score_correction_bias"].dtype == torch.float32
    assert torch.equal(weights[f"{at}.gate.e_score_correction_bias"], tensors[f"{at}.gate.expert_bias"])
    # The published gate computes in float32; transformers 5.24 also keeps the weight so, which changes no value.
    assert torch.equal(weights[f"{at}.gate.weight"].float(), tensors[f"{at}.gate.weight"].float())
    routers = ("gate.weight", "gate.e_score_correction_bias")
    assert {tensor.dtype for name, tensor in weights.items() if not name.endswith(routers)} == {torch.bfloat16}


@pytest.mark.parametrize("model_type", ["llada2_moe", "llada2_moe_veomni"])
def test_stacked_experts_are_read_too_whatever_the_model_is_called(tmp_path, published, model_type):
    config = {**CONFIG, "model_type": model_type}
    write_published(tmp_path / "stacked", config, stack_experts(make_tensors()), shards=2)
    one, two = (Denoiser(pretrained=str(folder)).model.state_dict() for folder in (published, tmp_path / "stacked"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    convert(tmp_path / "stacked", tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "apart")
    republished, _ = read_published(tmp_path / "apart")
    expected = make_tensors()
    assert republished.keys() == expected.keys()
    assert all(torch.equal(republished[name], expected[name]) for name in republished)
    assert json.loads((tmp_path / "apart" / "config.json").read_text()) == CONFIG


def test_an_export_gives_the_same_logits_and_reads_in_transformers(tmp_path, published):
    module = dmaxlit.load(published)
    module.export(tmp_path / "out")
    again = dmaxlit.load(tmp_path / "out")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(theirs) is Glm4MoeForCausalLM
    ids = torch.arange(40)
    expected = logits_of(module.backbone, ids, blockwise(40))
    assert torch.equal(logits_of(again.backbone, ids, blockwise(40)), expected)
    assert all(torch.equal(weight, module.backbone.model.state_dict()[name]) for name, weight in
               theirs.state_dict().items())  # fmt: skip
    assert again.special == module.special
    assert "auto_map" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_an_export_goes_back_to_the_published_form(tmp_path, published):
    dmaxlit.load(published).export(tmp_path / "out")
    convert(tmp_path / "out", tmp_path / "back", dtype="bfloat16", like=published)
    republished, _ = read_published(tmp_path / "back")
    expected = make_tensors()
    assert republished.keys() == expected.keys()
    for name, tensor in expected.items():
        assert republished[name].dtype == tensor.dtype
        assert torch.equal(republished[name], tensor)
    assert json.loads((tmp_path / "back" / "config.json").read_text()) == CONFIG
    assert (tmp_path / "back" / "modeling_llada2_moe.py").is_file()


def test_a_lightning_checkpoint_of_it_loads(tmp_path, published):
    import lightning as L

    from tests.test_module import QUIET

    module = DMaxModule(Denoiser(pretrained=str(published)))
    trainer = L.Trainer(**{**QUIET, "max_steps": 0})
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "m.ckpt")
    again = dmaxlit.load(tmp_path / "m.ckpt")
    weights = module.backbone.model.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in again.backbone.model.state_dict().items())
    again.export(tmp_path / "out")
    assert convert(tmp_path / "out", tmp_path / "back") == "llada2"


# ---- training and decoding ------------------------------------------------------------------------------------------


def test_it_trains_and_decodes(published):
    from dmaxlit.noise import OnPolicyNoise
    from dmaxlit.randomness import RowGenerator
    from tests.conftest import make_batch

    module = DMaxModule(Denoiser(pretrained=str(published), block_length=8), OnPolicyNoise(level=0.75))
    clean = make_batch(special=module.special)
    losses = module.view_losses(clean, RowGenerator(0, [0, 1, 2]))
    assert [loss.name for loss in losses] == ["masked", "predicted"]
    torch.stack([loss.total for loss in losses]).sum().backward()
    gradients = {name: p.grad for name, p in module.backbone.model.named_parameters()}
    assert all(grad is not None and grad.isfinite().all() for grad in gradients.values())
    assert gradients["model.layers.1.mlp.experts.gate_up_proj"].abs().sum() > 0
    module.eval()
    prompts = ["2 + 2 = ?", "Write a poem.", "x"]
    together = module.generate(prompts, decoder="spd", max_new_tokens=24)
    alone = [module.generate([prompt], decoder="spd", max_new_tokens=24)[0] for prompt in prompts]
    assert [one.text for one in together] == [one.text for one in alone]
    assert all(0 < one.num_tokens <= 24 for one in together)


def test_gradient_checkpointing_gives_the_same_loss(published):
    from dmaxlit.noise import MaskedNoise
    from dmaxlit.randomness import RowGenerator
    from tests.conftest import make_batch

    totals = []
    for flag in (False, True):
        backbone = Denoiser(pretrained=str(published), block_length=8, gradient_checkpointing=flag)
        assert backbone.model.is_gradient_checkpointing == flag
        module = DMaxModule(backbone, MaskedNoise(level=0.5))
        (loss,) = module.view_losses(make_batch(special=backbone.special), RowGenerator(0, [0, 1, 2]))
        loss.total.backward()
        totals.append((loss.total, backbone.model.model.layers[1].mlp.experts.down_proj.grad))
    torch.testing.assert_close(totals[0], totals[1], atol=1e-4, rtol=1e-4)


# ---- the special tokens ---------------------------------------------------------------------------------------------


def test_mask_and_eos_are_tokens_that_were_there(published):
    denoiser = Denoiser(pretrained=str(published))
    assert denoiser.special.mask_id == 260
    assert denoiser.special.eos_id == 256
    assert denoiser.embedding.shape[0] == CONFIG["vocab_size"]


def test_mask_and_eos_can_be_named(published):
    denoiser = Denoiser(pretrained=str(published), mask_token="<role>", eos_token="<|role_end|>")
    assert (denoiser.special.mask_id, denoiser.special.eos_id) == (257, 259)


def test_the_ids_of_the_configuration_are_used_where_the_tokenizer_says_nothing(tmp_path):
    config = {**CONFIG, "mask_token_id": 257, "eos_token_id": 259}
    folder = write_published(tmp_path / "m", config)
    write_tokenizer(folder, eos_token=None)
    special = Denoiser(pretrained=str(folder)).special
    assert (special.mask_id, special.eos_id) == (257, 259)


def with_tokenizer(folder, **settings):
    write_published(folder, tokenizer=False)
    write_tokenizer(folder, **settings)


@pytest.mark.parametrize(
    ("tokenizer", "options", "message"),
    [
        ({"special": ["<|endoftext|>"]}, {}, "tokenizer: expected a mask token, found none"),
        ({}, {"mask_token": "[MASK]"}, r"mask_token: expected the text of a token of the vocabulary, got '\[MASK\]'"),
        ({}, {"eos_token": "</s>"}, "eos_token: expected the text of a token of the vocabulary, got '</s>'"),
        ({"eos_token": None}, {}, "tokenizer: expected a EOS token, found none|tokenizer: expected an EOS token"),
        (
            {"special": ["<|endoftext|>", "<|mask|>", *(f"<{i}>" for i in range(20))]},
            {},
            "tokenizer: expected ids below the embedding's 272 rows, got up to 277",
        ),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused_in_one_line(tmp_path, tokenizer, options, message):
    with_tokenizer(tmp_path / "m", **tokenizer)
    with pytest.raises(UserError, match=message) as caught:
        Denoiser(pretrained=str(tmp_path / "m"), **options)
    assert "\n" not in str(caught.value)


def test_tokenizer_and_configuration_that_contradict_each_other_are_refused(tmp_path):
    folder = write_published(tmp_path / "m", {**CONFIG, "mask_token_id": 257})
    write_tokenizer(folder, mask_token="<|mask|>")
    with pytest.raises(UserError, match=r"mask_token: expected tokenizer and config.json to agree"):
        Denoiser(pretrained=str(folder))
    assert Denoiser(pretrained=str(folder), mask_token="<|mask|>").special.mask_id == 260
