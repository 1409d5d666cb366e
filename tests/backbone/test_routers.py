from copy import deepcopy

import torch

from dmaxlit.backbone import Denoiser
from tests.backbone.formats.llada2_published import write_published


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
