"""The plan against what a tiny model really holds."""

from dataclasses import replace

import pytest
import torch
from torch.optim import AdamW

from dmaxlit import DMaxModule
from dmaxlit.backbone.lora import LoraSettings, add_adapters
from dmaxlit.noise import MMDNoise
from dmaxlit.noise.soft_targets import divergences
from dmaxlit.randomness import RowGenerator
from dmaxlit.training import chunked_logits
from dmaxlit.training.activation_memory import saved_bytes
from dmaxlit.training.memory_plan import peaks, plan, plans
from dmaxlit.training.memory_scenario import MemoryScenario
from dmaxlit.training.muon import MuonAdamW
from dmaxlit.training.next_token import next_token_loss
from dmaxlit.training.optimizer_memory import bytes_of
from tests.conftest import make_batch, make_denoiser

SIZES = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3}
MIXTURE = {"model_type": "qwen3_moe", "moe_intermediate_size": 96, "num_experts": 8, "num_experts_per_tok": 2}
ROWS, LENGTH = 4, 64


def meta_copy(denoiser):
    with torch.device("meta"):
        return type(denoiser.model)(denoiser.model.config).to(denoiser.model.dtype)


def scenario_for(denoiser, optimizer=AdamW, **more):
    model = more.pop("model", None) or meta_copy(denoiser)
    settings = {"gpus": 1, "sharded": False, "compute_dtype": torch.float32, "checkpointing": False, "views": 2}
    settings |= {"rows": ROWS, "length": LENGTH, "decode_rows": 0, "extra": (), **more}
    return MemoryScenario(model=model, optimizer=optimizer, **settings)


def sizes(scenario):
    return {item.name: item.size for item in plan(scenario)}


def step(module, clean):
    return torch.stack([loss.total for loss in module.view_losses(clean, RowGenerator(0, list(range(ROWS))))]).sum()


@pytest.mark.parametrize("optimizer", [AdamW, MuonAdamW, lambda p: torch.optim.SGD([q for _, q in p], momentum=0.9)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("lora", [None, LoraSettings(r=2)])
def test_parameters_gradients_and_optimiser_state_are_exact(optimizer, lora, dtype):
    if lora is not None:
        pytest.importorskip("peft")
    module = DMaxModule(make_denoiser(dtype=dtype, **SIZES), "on_policy", lora=lora)
    clean = make_batch((0,) * ROWS, (LENGTH,) * ROWS)
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    instance = optimizer(named)
    step(module, clean).backward()
    instance.step()
    states = [value for state in instance.state.values() for value in state.values() if isinstance(value, torch.Tensor)]

    empty, extra = meta_copy(make_denoiser(dtype=dtype, **SIZES)), ()
    if lora is not None:
        add_adapters(empty, lora)
        extra = (torch.empty(64, device="meta", requires_grad=True),)
    planned = sizes(scenario_for(module.backbone, optimizer, model=empty, extra=extra))
    assert planned["parameters"] == bytes_of(module.parameters())
    assert planned["gradients"] == bytes_of(p.grad for p in module.parameters() if p.grad is not None)
    assert planned["optimiser state"] == bytes_of(states)


@pytest.mark.parametrize("noise", [("masked", 1), ("on_policy", 2)])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_activations_are_within_a_quarter_of_what_autograd_keeps(noise, attention):
    name, views = noise
    module = DMaxModule(make_denoiser(attn_implementation=attention, **SIZES), name)
    clean = make_batch((0,) * ROWS, (LENGTH,) * ROWS)
    saved = saved_bytes(lambda: step(module, clean), module.parameters())
    planned = sizes(scenario_for(module.backbone, views=views))
    assert 0.8 * saved < planned["activations"] + planned["logits"] < 1.25 * saved


@pytest.mark.parametrize("mixed", [False, True])
def test_float32_adapters_of_a_model_in_16_bits_keep_their_inputs_in_float32(mixed):
    pytest.importorskip("peft")
    module = DMaxModule(make_denoiser(dtype="bfloat16", **SIZES), "masked", lora=LoraSettings(r=2))
    clean = make_batch((0,) * ROWS, (LENGTH,) * ROWS)
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed, cache_enabled=False):
        saved = saved_bytes(lambda: step(module, clean), module.parameters())
    empty = meta_copy(module.backbone)
    settings = {"compute_dtype": torch.bfloat16, "casts_weights": mixed, "views": 1}
    add_adapters(empty, LoraSettings(r=2))
    planned = sizes(scenario_for(module.backbone, model=empty, **settings))
    assert 0.8 * saved < planned["activations"] + planned["logits"] < 1.25 * saved


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_pass_over_the_row_alone_keeps_what_next_token_training_keeps(checkpointing):
    denoiser = make_denoiser(recompute=checkpointing, **SIZES)
    clean = make_batch((0,) * ROWS, (LENGTH,) * ROWS)
    saved = saved_bytes(lambda: next_token_loss(denoiser.train(), clean).total, denoiser.parameters())
    scenario = scenario_for(denoiser, views=1, clean_copy=False, checkpointing=checkpointing)
    planned = sizes(scenario)
    assert "rollout's cache" not in planned
    logits = ROWS * LENGTH * denoiser.embedding.shape[0] * 4
    assert planned["logits"] == 2 * logits  # log-probabilities, and one gradient
    if checkpointing:  # what is kept within a layer is computed again, one layer at a time
        assert 3 * ROWS * LENGTH * 64 * 4 < saved < planned["activations"] + planned["logits"]
        assert planned["activations"] < sizes(replace(scenario, checkpointing=False))["activations"]
    else:
        assert 0.8 * saved < planned["activations"] + logits < 1.25 * saved


def test_where_heads_share_no_keys_the_cache_is_part_of_what_autograd_keeps():
    module = DMaxModule(make_denoiser(num_key_value_heads=2, **SIZES), "on_policy")
    clean = make_batch((0,) * ROWS, (LENGTH,) * ROWS)
    saved = saved_bytes(lambda: step(module, clean), module.parameters())
    planned = sizes(scenario_for(module.backbone))
    assert planned["rollout's cache"] == ROWS * LENGTH * 3 * 2 * 2 * 16 * 4
    assert 0.8 * saved < planned["activations"] + planned["rollout's cache"] + planned["logits"] < 1.25 * saved


def test_phases_hold_what_they_need():
    planned = plan(scenario_for(make_denoiser(**SIZES), decode_rows=5))
    bytes_by_name, of_phases = {item.name: item.size for item in planned}, peaks(planned)
    kept = bytes_by_name["parameters"] + bytes_by_name["optimiser state"]
    assert bytes_by_name["optimiser's temporaries"] == bytes_by_name["parameters"], "AdamW's foreach: one of each size"
    assert of_phases == {
        "training": kept
        + sum(bytes_by_name[name] for name in ("gradients", "activations", "rollout's cache", "logits")),
        "update": kept + bytes_by_name["gradients"] + bytes_by_name["optimiser's temporaries"],
        "decoding": kept + bytes_by_name["KV cache"],
    }


def test_plans_of_several_numbers_are_those_of_each():
    scenario = scenario_for(make_denoiser(**SIZES), gpus=4, sharded=True)
    one, four = plans(scenario, [1, 4])
    assert four == plan(scenario)
    assert one == plan(scenario_for(make_denoiser(**SIZES), sharded=True))


def test_checkpointing_keeps_layer_inputs_and_one_layer_at_a_time():
    denoiser = make_denoiser(recompute=True, **SIZES)
    module = DMaxModule(denoiser, "on_policy")
    clean = make_batch((0,) * ROWS, (LENGTH,) * ROWS)
    saved = saved_bytes(lambda: step(module, clean), module.parameters())
    planned = sizes(scenario_for(denoiser, checkpointing=True))
    whole = sizes(scenario_for(denoiser))
    inputs = (2 + 1) * 3 * ROWS * LENGTH * 64 * 4
    assert inputs < saved < sum(planned[name] for name in ("activations", "rollout's cache", "logits"))
    assert planned["activations"] + planned["rollout's cache"] + planned["logits"] < whole["activations"]
    assert planned["activations"] - inputs < (whole["activations"] - inputs) / 2, (
        "one layer is computed again at a time"
    )


def test_logits_of_a_large_vocabulary_are_never_there_together(monkeypatch):
    monkeypatch.setitem(chunked_logits._MAX_LOGITS, "cpu", 38 * 16)
    monkeypatch.setitem(chunked_logits._MAX_LOGITS, "other", 38 * 16)
    monkeypatch.setattr(chunked_logits, "_FEWEST", 1)
    module = DMaxModule(make_denoiser(**SIZES), "on_policy")
    clean = make_batch((0,) * ROWS, (LENGTH,) * ROWS)
    saved = saved_bytes(lambda: step(module, clean), module.parameters())
    planned = sizes(scenario_for(module.backbone))
    assert planned["logits"] == 16 * 38 * 8 + 2 * ROWS * LENGTH * 64 * 4 + 38 * 64 * 4 * (2 + 2)
    assert 0.8 * saved < planned["activations"] + planned["logits"] < 1.25 * saved


def test_a_pass_over_the_row_alone_has_its_logits_in_chunks_or_at_once(monkeypatch):
    monkeypatch.setitem(chunked_logits._MAX_LOGITS, "cpu", 38 * 16)
    monkeypatch.setitem(chunked_logits._MAX_LOGITS, "other", 38 * 16)
    monkeypatch.setattr(chunked_logits, "_FEWEST", 1)
    denoiser = make_denoiser(**SIZES)
    clean = make_batch((0,) * ROWS, (LENGTH,) * ROWS)
    saved = saved_bytes(lambda: next_token_loss(denoiser, clean).total, denoiser.parameters())
    scenario = scenario_for(denoiser, views=1, clean_copy=False)
    planned, at_once = sizes(scenario), sizes(replace(scenario, whole_logits=True))
    assert planned["logits"] == 16 * 38 * 8 + ROWS * LENGTH * 64 * 4 + 38 * 64 * 4 * (1 + 2)
    assert 0.8 * saved < planned["activations"] + planned["logits"] < 1.25 * saved
    assert at_once["logits"] == 2 * ROWS * LENGTH * 38 * 4


def test_sharding_divides_what_is_kept_and_adds_what_is_gathered():
    denoiser = make_denoiser(**SIZES)
    one, four = sizes(scenario_for(denoiser)), sizes(scenario_for(denoiser, gpus=4, sharded=True))
    for name in ("parameters", "gradients", "optimiser state"):
        assert four[name] == -(-one[name] // 4)
    assert four["gathered model"] == one["parameters"]
    assert four["whole gradients"] == one["gradients"], "each pass adds to them before they are shared"
    once = sizes(scenario_for(denoiser, gpus=4, sharded=True, views=0))["whole gradients"]
    assert once < 0.6 * one["gradients"], "the root and one of three layers"
    assert four["activations"] == one["activations"]
    buckets = {"gradient buckets": one["gradients"]}
    assert sizes(scenario_for(denoiser, gpus=4)) == one | buckets, "data parallel processes each hold everything"


def test_half_precision_halves_activations_and_not_the_master_weights():
    denoiser = make_denoiser(**SIZES)
    one, half = sizes(scenario_for(denoiser)), sizes(scenario_for(denoiser, compute_dtype=torch.bfloat16))
    assert half["parameters"] == one["parameters"]
    assert 0.4 < half["activations"] / one["activations"] < 0.75


@pytest.mark.parametrize("mixed", [False, True])
def test_experts_compute_in_the_type_of_their_weights(mixed):
    module = DMaxModule(make_denoiser(**SIZES, **MIXTURE), "masked")
    clean = make_batch((0,) * ROWS, (LENGTH,) * ROWS)
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        saved = saved_bytes(lambda: step(module, clean), module.parameters())
    settings = {"compute_dtype": torch.bfloat16 if mixed else torch.float32, "casts_weights": mixed, "views": 1}
    planned = sizes(scenario_for(module.backbone, **settings))
    assert 0.8 * saved < planned["activations"] + planned["logits"] < 1.25 * saved
    if mixed:  # FSDP2 gathers them in the compute type
        sharded = sizes(scenario_for(module.backbone, sharded=True, **settings))
        assert sharded["activations"] < 0.7 * planned["activations"]
        assert sharded["cast weights"] > 2 * planned["cast weights"]


@pytest.mark.parametrize(("noise", "views"), [("masked", 1), ("on_policy", 2)])
@pytest.mark.parametrize("mixture", [{}, MIXTURE], ids=["dense", "mixture"])
def test_each_pass_keeps_cast_weights_of_its_own(noise, views, mixture):
    module = DMaxModule(make_denoiser(**SIZES, **mixture), noise)
    clean = make_batch((0,) * ROWS, (LENGTH,) * ROWS)

    def saved(cache_enabled):
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=cache_enabled):
            return saved_bytes(lambda: step(module, clean), module.parameters())

    planned = sizes(scenario_for(module.backbone, compute_dtype=torch.bfloat16, views=views))["cast weights"]
    once = sizes(scenario_for(module.backbone, compute_dtype=torch.bfloat16, views=1, clean_copy=False))["cast weights"]
    assert saved(cache_enabled=False) - saved(cache_enabled=True) == planned - once
    recomputed = sizes(scenario_for(module.backbone, compute_dtype=torch.bfloat16, views=views, checkpointing=True))
    assert recomputed["cast weights"] < once / 2 + views * 2 * module.backbone.embedding.numel()


def test_the_decoding_cache_is_keys_and_values_of_every_layer():
    planned = sizes(scenario_for(make_denoiser(**SIZES), decode_rows=5))
    assert planned["KV cache"] == (5 + 2) * LENGTH * 3 * 2 * 1 * 16 * 4  # two commit rows


@pytest.mark.parametrize("offloaded", [False, True])
def test_the_frozen_copy_is_as_large_as_the_one_that_is_made(offloaded):
    module = DMaxModule(make_denoiser(**SIZES), MMDNoise(layer=0, groups=2, samples=2))
    features = {"feature_layer": 0, "feature_requests": 5, "copies_features": True, "offloaded": offloaded}
    items = {item.name: item for item in plan(scenario_for(module.backbone, views=1, rollout_forwards=2, **features))}
    assert items["frozen copy"].size == bytes_of(module.frozen_features()._trunk.parameters())
    assert items["frozen copy"].when == (("training",) if offloaded else ("always",))
    assert items["frozen copy"].detail == "embedding and 1 of 3 layers"
    assert items["features"].size == 5 * ROWS * LENGTH * 64 * 4
    assert items["activations"].detail.endswith("; 2 forwards without gradients keep none")
    adapted = sizes(scenario_for(module.backbone, views=1, **{**features, "copies_features": False}))
    assert "frozen copy" not in adapted
    assert "frozen copy" not in sizes(scenario_for(module.backbone)), "no strategy asks for features"


def test_divergences_keep_what_is_planned_for_them():
    logits, target = torch.randn(9, 500, requires_grad=True), torch.randn(9, 500).log_softmax(-1)
    kept = saved_bytes(lambda: divergences(1.0 * logits, target, "jsd").sum(), [logits])
    denoiser = make_denoiser(**SIZES)
    with_teacher, without = (sizes(scenario_for(denoiser, views=1, divergence_views=n))["logits"] for n in (1, 0))
    planned = (with_teacher - without) / (ROWS * LENGTH * 38)  # bytes of a logit
    assert 0.9 * kept < (planned + 4) * logits.numel() < 1.25 * kept


@pytest.mark.parametrize("name", ["mmd", "tsd"])
def test_forwards_without_gradients_keep_no_activations(name):
    module = DMaxModule(make_denoiser(**SIZES), name)
    clean = make_batch((0,) * ROWS, (LENGTH,) * ROWS)
    saved = saved_bytes(lambda: step(module, clean), module.parameters())
    planned = sizes(scenario_for(module.backbone, views=1))
    assert saved < 1.25 * (planned["activations"] + planned["logits"])
