from copy import deepcopy

import pytest
import torch

from dmaxlit.backbone import Denoiser
from tests.backbone.formats.llada2_published import write_published
from tests.conftest import make_denoiser


def test_a_router_chooses_under_autocast_what_it_chooses_in_float32(tmp_path):
    model = Denoiser(pretrained=str(write_published(tmp_path / "m"))).model
    gate = model.model.layers[1].mlp.gate
    hidden = torch.randn(500, 32, generator=torch.Generator().manual_seed(0))
    expected = gate(hidden)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = gate(hidden)
        plain = type(gate).forward(gate, hidden)
    assert all(torch.equal(one, two) for one, two in zip(outputs, expected, strict=True))
    assert outputs[0].dtype == torch.float32
    assert not torch.equal(plain[0].float(), expected[0])  # autocast would have rounded it
    assert not torch.equal(plain[2].sort(-1).values, expected[2].sort(-1).values)


def test_a_copy_routes_with_its_own_weights(tmp_path):
    gate = Denoiser(pretrained=str(write_published(tmp_path / "m"))).model.model.layers[1].mlp.gate
    copied = deepcopy(gate)
    with torch.no_grad():
        copied.weight.zero_()
    assert (copied(torch.ones(1, 32))[0] == 0).all()
    assert (gate(torch.ones(1, 32))[0] != 0).any()


@pytest.mark.parametrize("config", [{"model_type": "minimax_m2"}, {"model_type": "hy_v3", "moe_intermediate_size": 16}])
def test_of_a_mixture_that_holds_the_bias_the_router_alone_is_in_float32(config):
    mixture = make_denoiser(num_local_experts=4, num_experts_per_tok=2, **config).model.model.layers[-1].mlp
    seen = {}
    for name, module in mixture.named_modules():
        module.register_forward_pre_hook(
            lambda module, inputs, name=name: seen.update({name: torch.is_autocast_enabled("cpu")})
        )
    hidden = torch.randn(1, 500, 32, generator=torch.Generator().manual_seed(0))
    bias = mixture.e_score_correction_bias
    expected = mixture.gate(hidden[0], bias)
    mixture.gate.register_forward_hook(lambda module, inputs, outputs: seen.update(outputs=outputs))
    with torch.autocast("cpu", torch.bfloat16):
        mixture(hidden)
    assert all(torch.equal(one, two) for one, two in zip(seen.pop("outputs"), expected, strict=True))
    assert seen.pop("experts")
    assert all(seen.values())
