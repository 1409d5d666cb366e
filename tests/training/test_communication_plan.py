"""What FSDP2 gathers and reduces in a training step is counted on two ranks; the rest of the arithmetic by hand."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dmaxlit.backbone.lora import LoraSettings, add_adapters
from dmaxlit.training.communication_plan import Speeds, _used, layer_gathers, operations, received_bytes
from tests.conftest import TINY, make_denoiser
from tests.training.test_memory_plan import scenario_for

LAYERS = 4
CASES = {  # the noise strategy, whether layers are recomputed, views with and without gradients, compute type
    "masked": ("masked", False, 1, 0, "float32"),
    "on_policy": ("on_policy", False, 2, 0, "bfloat16"),
    "checkpointed": ("on_policy", True, 2, 0, "bfloat16"),
    "soft tokens": ("soft_on_policy", False, 2, 0, "float32"),
    "tsd": ("tsd", False, 1, 4, "float32"),
}


@pytest.fixture(scope="module")
def counted(processes, tmp_path_factory):
    """For each case, the collectives of a training step after the first: operation, elements, type."""
    folder = tmp_path_factory.mktemp("counted")
    args = [LAYERS, json.dumps(CASES), folder / "calls.json"]
    codes = processes.run(args, folder / "log", module="tests.training.count_collectives", ranks=2)
    assert codes == [0, 0], (folder / "log.0").read_text()
    return json.loads((folder / "calls.json").read_text())


@pytest.mark.slow  # two processes
@pytest.mark.parametrize("case", CASES)
def test_the_plan_is_what_two_ranks_exchange(counted, case):
    _, recomputed, views, without, dtype = CASES[case]
    denoiser = make_denoiser(recompute=recomputed, num_hidden_layers=LAYERS)
    scenario = scenario_for(
        denoiser,
        gpus=2,
        sharded=True,
        views=views,
        rollout_forwards=without,
        checkpointing=recomputed,
        compute_dtype=getattr(torch, dtype),
    )
    calls = [tuple(call) for call in counted[case]]
    layer = sum(parameter.numel() for parameter in denoiser.model.model.layers[0].parameters())
    assert sum(call == ("all_gather", layer, dtype) for call in calls) == LAYERS * layer_gathers(scenario)
    width = {"float32": 4, "bfloat16": 2}
    moved = {"all_gather": 0.5, "reduce_scatter": 1.0}  # of the gathered tensor, and of the shard that remains
    assert received_bytes(scenario) == sum(moved[name] * size * width[kind] for name, size, kind in calls)
    # A layer is reduced after all of its passes, so that the sums of all layers are there in the last one.
    passes = views + 1
    first = next(number for number, call in enumerate(calls) if call[0] == "reduce_scatter")
    assert sum(call == ("all_gather", layer, dtype) for call in calls[:first]) >= LAYERS * (2 * passes - 1)


def test_replicas_reduce_the_gradients_and_one_gpu_nothing():
    denoiser = make_denoiser()
    size = 4 * sum(parameter.numel() for parameter in denoiser.model.parameters())
    assert received_bytes(scenario_for(denoiser, gpus=4)) == 2 * 3 / 4 * size
    assert received_bytes(scenario_for(denoiser, gpus=1, sharded=True)) == 0


def test_adapters_of_a_model_in_16_bits_are_exchanged_in_their_own_type():
    pytest.importorskip("peft")
    denoiser = make_denoiser(dtype="bfloat16")
    scenario = scenario_for(denoiser, gpus=4)
    add_adapters(scenario.model, LoraSettings(r=2))
    count = sum(parameter.numel() for parameter in scenario.model.parameters() if parameter.requires_grad)
    assert received_bytes(scenario) == 2 * 3 / 4 * 4 * count


def test_beyond_a_node_its_network_counts_if_it_is_slower():
    speeds = Speeds(flops=1.0, link=300.0, network=100.0, gpus_per_node=8)
    assert [speeds.bandwidth(gpus) for gpus in (2, 8, 9, 64)] == [300, 300, 100, 100]
    assert Speeds(flops=1.0, link=300.0, network=400.0, gpus_per_node=8).bandwidth(16) == 300


@pytest.mark.parametrize("checkpointing", [False, True])
def test_operations_are_those_of_the_passes(checkpointing):
    denoiser = make_denoiser()
    scenario = scenario_for(denoiser, views=2, rollout_forwards=3, checkpointing=checkpointing)
    tokens = scenario.rows * scenario.length
    layers = sum(parameter.numel() for parameter in denoiser.model.model.layers.parameters())
    head = 38 * TINY["hidden_size"]
    # Three passes of forward and backward, which is two products, and three forwards; the head sees views alone.
    forwards = 3 * (3 + checkpointing) + 3
    assert operations(scenario) == 2 * tokens * (forwards * layers + (2 * 3 + 3) * head)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_pass_over_the_row_alone_has_no_clean_copy(checkpointing):
    scenario = scenario_for(
        make_denoiser(), views=1, clean_copy=False, checkpointing=checkpointing, gpus=2, sharded=True
    )
    model = scenario.model.model
    layers = sum(parameter.numel() for parameter in model.layers.parameters())
    tokens, head = scenario.rows * scenario.length, model.embed_tokens.weight.numel()
    assert operations(scenario) == 2 * tokens * ((3 + checkpointing) * layers + 3 * head)
    assert layer_gathers(scenario) == 2


def test_a_token_is_multiplied_with_the_experts_that_it_is_sent_to():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(8, 3, 5))

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.experts = nn.Linear(3, 3, bias=False), Experts()

    scenario = SimpleNamespace(model=SimpleNamespace(config=SimpleNamespace(num_experts_per_tok=2)))
    assert _used(scenario, Layer(), True) == 9 + 2 * 15
    dense = SimpleNamespace(model=SimpleNamespace(config=SimpleNamespace()))
    assert _used(dense, Layer(), True) == 9 + 8 * 15


def test_what_is_not_trained_has_no_gradient_of_weights():
    denoiser = make_denoiser()
    whole = operations(scenario_for(denoiser, views=1))
    frozen = scenario_for(denoiser, gpus=2, views=1)
    frozen.model.requires_grad_(False)
    assert operations(frozen) == pytest.approx(whole * 2 / 3)
    assert received_bytes(frozen) == 0
