import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from dmaxlit import DMaxModule, UserError
from dmaxlit.backbone.hidden_matrices import mark_hidden_matrices
from dmaxlit.backbone.lora import LoraSettings
from dmaxlit.training.muon import MuonAdamW, orthogonalize
from tests.conftest import make_denoiser


def tiny(seed=0):
    torch.manual_seed(seed)
    return torch.nn.ModuleDict(
        {"embed": torch.nn.Embedding(7, 6), "up": torch.nn.Linear(6, 9), "down": torch.nn.Linear(9, 6, bias=False)}
    )


def loss_of(model):
    x = model["embed"](torch.tensor([1, 2, 3]))
    return model["down"](torch.tanh(model["up"](x))).square().sum()


@pytest.mark.parametrize("shape", [(5, 8, 3), (5, 3, 8), (1, 6, 6)])
def test_orthogonalize_pulls_singular_values_to_one_and_keeps_the_directions(shape):
    torch.manual_seed(0)
    x = torch.randn(shape)
    out = orthogonalize(x, steps=8)
    values = torch.linalg.svdvals(out)
    assert values.min() > 0.6
    assert values.max() < 1.3
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    cosine = (out * (u @ v)).sum((-2, -1)) / out.norm(dim=(-2, -1)) / (u @ v).norm(dim=(-2, -1))
    assert cosine.min() > 0.97


def test_updates_equal_torchs_muon_and_adamw(monkeypatch):
    # torch's Muon iterates in bfloat16; in float32 the two must agree closely.
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    ours, theirs = tiny(), tiny()
    optimizer = MuonAdamW(ours, lr=0.02, adamw_lr=1e-3, weight_decay=0.1)
    matrices = [theirs["up"].weight, theirs["down"].weight]
    others = [theirs["embed"].weight, theirs["up"].bias]
    parts = [
        torch.optim.Muon(matrices, lr=0.02, weight_decay=0.1),
        torch.optim.AdamW(others, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1),
    ]
    for _ in range(3):
        for model, steppers in ((ours, [optimizer]), (theirs, parts)):
            for part in steppers:
                part.zero_grad()
            loss_of(model).backward()
            for part in steppers:
                part.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_its_state_restores_exactly():
    def run(model, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            loss_of(model).backward()
            optimizer.step()

    straight, halted = tiny(), tiny()
    run(straight, MuonAdamW(straight), 6)
    first = MuonAdamW(halted)
    run(halted, first, 3)
    second = MuonAdamW(halted)
    second.load_state_dict(first.state_dict())
    run(halted, second, 3)
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), halted.parameters(), strict=True))


def test_schedulers_reach_both_groups():
    model = tiny()
    optimizer = MuonAdamW(model, lr=0.02, adamw_lr=0.003)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    optimizer.step()
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.0015])


def test_bad_options_are_refused():
    model = tiny()
    with pytest.raises(UserError, match=r"expected .name, parameter. pairs"):
        MuonAdamW(model.parameters())
    with pytest.raises(UserError, match=r"got 'embed.weight' alone; pass the module"):
        MuonAdamW(model.named_parameters())
    with pytest.raises(UserError, match="momentum"):
        MuonAdamW(model, momentum=1.0)


# ---- which parameters are hidden matrices ----------------------------------------------------------------------------

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    "head_dim": 8,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
EXPERTS = {"moe_intermediate_size": 12, "num_experts_per_tok": 2}
GLM = {**EXPERTS, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
ATTENTION = {f"self_attn.{name}_proj.weight" for name in "qkvo"}
MLP = {f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")}
STACKS = {"mlp.experts.gate_up_proj", "mlp.experts.down_proj"}
SHARED = {f"mlp.shared_experts.{name}_proj.weight" for name in ("gate", "up", "down")}
CONV = {"attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight"}
EXPECTED = {
    "llama": ({}, ATTENTION | MLP),
    "qwen3": ({"tie_word_embeddings": True}, ATTENTION | MLP),
    "glm4_moe": (GLM, ATTENTION | MLP | STACKS | SHARED),
    "qwen2_moe": (
        {**EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 12},
        ATTENTION | STACKS | {name.replace("experts", "expert") for name in SHARED},
    ),
    "gpt_oss": ({"num_local_experts": 4}, ATTENTION | STACKS),
    "gpt2": ({}, CONV),
}


def model_of(name):
    settings = {**SIZES, **EXPECTED[name][0]} if name != "gpt2" else {"n_embd": 16, "n_layer": 2, "n_head": 2}
    ids = {"bos_token_id": None, "eos_token_id": None}
    return AutoModelForCausalLM.from_config(
        AutoConfig.for_model(name, **{**settings, "vocab_size": 40, **ids}), dtype=torch.float32
    )


def names_with_muon(model, optimizer):
    muon = {id(p) for group in optimizer.param_groups if group["muon"] for p in group["params"]}
    return {name for name, p in model.named_parameters() if id(p) in muon}


@pytest.mark.parametrize("name", EXPECTED)
def test_muon_updates_linear_layers_and_experts_and_nothing_else(name):
    model = model_of(name)
    names = names_with_muon(model, MuonAdamW(model))
    assert {name.split(".", 3)[-1] for name in names} == EXPECTED[name][1]
    assert names >= {n for n, _ in model.named_parameters() if "0." in n and n.split(".", 3)[-1] in ATTENTION | CONV}


def test_a_linear_layer_that_scores_experts_is_a_router():
    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = torch.nn.Linear(6, 3, bias=False)
            self.shared_gate = torch.nn.Linear(6, 1, bias=False)
            self.latent = torch.nn.Linear(6, 8, bias=False)
            self.experts = torch.nn.ModuleList(torch.nn.Linear(8, 6, bias=False) for _ in range(3))

    model = torch.nn.Sequential(Block())
    expected = {"0.latent.weight", *(f"0.experts.{i}.weight" for i in range(3))}
    assert names_with_muon(model, MuonAdamW(model)) == expected


def test_a_weight_shared_with_an_embedding_is_none_of_muon_s():
    model = tiny()
    model["tied"] = torch.nn.Linear(6, 7, bias=False)
    model["tied"].weight = model["embed"].weight
    assert names_with_muon(model, MuonAdamW(model)) == {"up.weight", "down.weight"}


def test_a_module_s_optimiser_splits_by_layer_and_adapters_get_adamw():
    module = DMaxModule(make_denoiser(), optimizer=MuonAdamW)
    names = names_with_muon(module, module.configure_optimizers())
    # The split of every recipe that was published: two-dimensional, neither embedding nor head.
    old = {n for n, p in module.named_parameters() if p.ndim == 2 and "embed" not in n and "lm_head" not in n}
    assert names == old
    pytest.importorskip("peft")
    adapted = DMaxModule(make_denoiser(), optimizer=MuonAdamW, lora=LoraSettings(r=2))
    assert not names_with_muon(adapted, adapted.configure_optimizers())


@pytest.mark.parametrize("inputs_first", [True, False])
def test_each_expert_of_a_stack_is_updated_as_a_matrix_of_its_own(inputs_first):
    class Experts(torch.nn.Module):
        def __init__(self, stack):
            super().__init__()
            self.is_transposed = inputs_first
            self.up_proj = torch.nn.Parameter(stack)

    torch.manual_seed(0)
    matrices = [torch.randn(10, 4) for _ in range(3)]  # [outputs, inputs]
    singles = torch.nn.ModuleList(torch.nn.Linear(4, 10, bias=False) for _ in matrices)
    for layer, matrix in zip(singles, matrices, strict=True):
        layer.weight.data = matrix.clone()
    stacked = Experts(torch.stack([m.T if inputs_first else m for m in matrices]).contiguous())
    optimizers = [MuonAdamW(model, lr=0.1, weight_decay=0.1) for model in (singles, stacked)]
    for _ in range(2):
        gradients = [torch.randn(10, 4) for _ in matrices]
        for layer, gradient in zip(singles, gradients, strict=True):
            layer.weight.grad = gradient.clone()
        stacked.up_proj.grad = torch.stack([g.T if inputs_first else g for g in gradients])
        for optimizer in optimizers:
            optimizer.step()
    for i, layer in enumerate(singles):
        expert = stacked.up_proj[i].T if inputs_first else stacked.up_proj[i]
        torch.testing.assert_close(expert, layer.weight, atol=1e-5, rtol=1e-4)


def test_parameters_of_a_marked_module_are_enough():
    model = tiny()
    mark_hidden_matrices(model)
    assert names_with_muon(model, MuonAdamW(model.named_parameters())) == {"up.weight", "down.weight"}
