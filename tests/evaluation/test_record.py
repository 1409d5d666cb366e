import torch

from dmaxlit import DMaxModule
from dmaxlit.evaluation.record import TPF_RULES, describe_device, describe_model
from dmaxlit.metrics import CONVENTIONS
from dmaxlit.weights_hash import weights_hash
from tests.conftest import make_denoiser


def test_every_rule_of_counting_is_explained():
    assert set(TPF_RULES) == set(CONVENTIONS)


def test_a_model_is_described_by_its_weights_and_sizes():
    module = DMaxModule(make_denoiser(block_length=16))
    described = describe_model(module, "builtin:chain-base")
    assert described["weights_sha256"] == weights_hash(module)
    assert (described["dtype"], described["block_length"], described["context_length"]) == ("float32", 16, 128)
    assert described["num_parameters"] == sum(p.numel() for p in module.backbone.model.parameters())
    assert (described["source"], described["revision"], described["attention"]) == ("builtin:chain-base", None, "sdpa")


def test_the_machine_is_described():
    described = describe_device(torch.device("cpu"), 2, 1)
    assert (described["type"], described["processes"], described["nodes"]) == ("cpu", 2, 1)
    assert described["threads"] == torch.get_num_threads()
    assert described["name"]
