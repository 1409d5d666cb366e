"""Compiled training forwards compute what the others do, with the weights of the model at hand."""

import copy
from functools import partial

import pytest
import torch

from dmaxlit import DMaxModule
from dmaxlit.backbone import Denoiser
from dmaxlit.backbone import denoiser as code
from dmaxlit.randomness import RowGenerator
from dmaxlit.training.next_token import next_token_loss
from tests.conftest import make_denoiser

# Dynamo looks at a cached key's gradient to guard on it.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


@pytest.fixture
def quick_compiler(monkeypatch):
    """Use dynamo without code generation."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    code._compiled.cache_clear()
    yield
    code._compiled.cache_clear()


def step(module, clean):
    losses = module.view_losses(clean, RowGenerator(0, [0, 1, 2]))
    total = torch.stack([loss.total for loss in losses]).sum()
    total.backward()
    return total.detach(), [parameter.grad for parameter in module.parameters()]


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True])
def test_loss_and_gradients_are_the_same(clean, quick_compiler, recompute):
    plain, compiled = (
        DMaxModule(make_denoiser(sharpen=3.0, recompute=recompute), compile=compile) for compile in (False, True)
    )
    (expected, gradients), (total, compiled_gradients) = step(plain, clean), step(compiled, clean)
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-5)
    for one, two in zip(compiled_gradients, gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    assert code._compiled.cache_info().misses == 1


@pytest.mark.slow
@pytest.mark.parametrize("noise", ["multi_block", "mmd", "tsd"])
def test_groups_features_and_soft_targets_are_the_same(clean, quick_compiler, noise):
    plain, compiled = (DMaxModule(make_denoiser(sharpen=3.0), noise, compile=compile) for compile in (False, True))
    (expected, gradients), (total, compiled_gradients) = step(plain, clean), step(compiled, clean)
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-4)
    for one, two in zip(compiled_gradients, gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)
    assert any(gradient.abs().max() > 0 for gradient in gradients)
    assert code._compiled.cache_info().misses == 1


def test_the_loss_of_the_next_token_is_compiled_too(clean, quick_compiler):
    found = []
    for compiled in (False, True):
        backbone = make_denoiser(sharpen=3.0)
        if compiled:
            backbone.compile_training()
        loss = next_token_loss(backbone, clean).total
        loss.backward()
        found.append([loss.detach(), *(parameter.grad for parameter in backbone.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert code._compiled.cache_info().misses == 1


def test_training_has_more_shapes_than_dynamo_compiles_by_default():
    with torch._dynamo.config.patch(recompile_limit=8):
        make_denoiser().compile_training()
        assert torch._dynamo.config.recompile_limit >= 12  # of OPUT, when batches vary in rows and length


class Doubled(Denoiser):
    def hidden(self, *inputs, **named):
        return 2 * super().hidden(*inputs, **named)


def test_a_subclass_s_own_hidden_states_are_compiled(quick_compiler):
    denoiser = make_denoiser()
    inputs = {"position_ids": torch.arange(4)[None], "input_ids": torch.tensor([[1, 2, 3, 4]])}
    allowed = torch.ones(1, 4, 4, dtype=torch.bool)
    plain = denoiser.hidden(allowed, **inputs)
    denoiser.__class__ = Doubled
    denoiser.compile_training()
    for compute in (denoiser.training_hidden, denoiser.compiled_hidden):
        torch.testing.assert_close(compute(allowed, **inputs), 2 * plain)


def test_a_copy_computes_with_its_own_weights(clean, quick_compiler):
    module = DMaxModule(make_denoiser(sharpen=3.0), compile=True)
    before, _ = step(module, clean)
    other = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.5)
    assert step(other, clean)[0] != before
    assert step(module, clean)[0] == before
