import pytest
import torch
from torch.optim import SGD, AdamW

from dmaxlit.backbone.hidden_matrices import mark_hidden_matrices
from dmaxlit.training.muon import MuonAdamW
from dmaxlit.training.optimizer_memory import PeakBytes, optimizer_memory
from tests.conftest import make_denoiser


def sgd(**options):
    return lambda named: SGD([parameter for _, parameter in named], **options)


def adamw(**options):
    return lambda named: AdamW(named, **options)


@pytest.fixture(scope="module")
def named():
    denoiser = make_denoiser()
    mark_hidden_matrices(denoiser)
    return list(denoiser.named_parameters())


@pytest.mark.parametrize(
    ("optimizer", "state", "temporary"),  # in copies of all parameters
    [
        (adamw(), 2, 1),  # the roots of the second moments
        (adamw(fused=True), 2, 0),
        (sgd(), 0, 0),
        (sgd(momentum=0.9), 1, 0),
        (sgd(weight_decay=0.1), 0, 1),  # the gradients with the decay
    ],
)
def test_torch_s_optimisers_need_what_their_formulas_say(named, optimizer, state, temporary):
    size = sum(4 * parameter.numel() for _, parameter in named)
    stored, besides = optimizer_memory(optimizer, named)
    assert stored - 4 * len(named) * (state == 2) == state * size  # AdamW counts the steps of each
    assert besides == temporary * size


def test_one_parameter_after_another_needs_the_largest_twice(named):
    largest = max(4 * parameter.numel() for _, parameter in named)
    assert largest <= optimizer_memory(adamw(foreach=False), named)[1] <= 3 * largest


@pytest.mark.parametrize("optimizer", [MuonAdamW, adamw(), sgd(momentum=0.9, weight_decay=0.1)])
def test_shapes_alone_need_what_real_numbers_do(named, optimizer):
    before = [parameter.clone() for _, parameter in named]
    assert optimizer_memory(optimizer, named) == optimizer_memory(optimizer, named, device="cpu")
    assert all(torch.equal(parameter, copy) for (_, parameter), copy in zip(named, before, strict=True))


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_a_peak_is_of_what_exists_together(device):
    known = torch.zeros(100, device=device)
    with PeakBytes([known]) as peak:
        for _ in range(3):
            made = known + 1  # 400 bytes, freed in the next round
            made.add_(1)
            known.view(10, 10)
        both = made * 2
    assert peak.largest == 800, both.shape
