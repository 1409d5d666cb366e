"""Chunked computation gives the result of computing everything at once."""

from contextlib import nullcontext

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from dmaxlit import DMaxModule
from dmaxlit.noise import NOISE
from dmaxlit.randomness import RowGenerator
from dmaxlit.training import chunked_logits, prediction
from dmaxlit.training.chunked_logits import chunked_sum, chunks
from dmaxlit.training.prediction import ChunkedPrediction
from tests.conftest import make_denoiser


class LinearHead(torch.nn.Linear):
    @property
    def vocab_size(self):
        return self.out_features


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setitem(chunked_logits._MAX_LOGITS, "cpu", 100)
    monkeypatch.setattr(chunked_logits, "_FEWEST", 3)


def test_pieces_are_one_unless_there_is_much(small_chunks):
    assert chunks(torch.zeros(5, 2), 20) == [slice(0, 5)]
    assert chunks(torch.zeros(0, 2), 20) == [slice(0, 0)]
    assert chunks(torch.zeros(6, 2), 20) == [slice(0, 5), slice(5, 6)]
    assert chunks(torch.zeros(7, 2), 1000) == [slice(0, 3), slice(3, 6), slice(6, 7)]


def inputs():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(11, 4, dtype=torch.float64, generator=generator)
    target = torch.randint(0, 20, (11,), generator=generator)
    weight = torch.rand(11, dtype=torch.float64, generator=generator)
    torch.manual_seed(1)
    return hidden, target, weight, LinearHead(4, 20, dtype=torch.float64)


class CountedCasts(TorchDispatchMode):
    """Counts the casts of tensors of the head's size to bfloat16."""

    def __init__(self, numel):
        super().__init__()
        self.numel, self.count = numel, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.count += func is torch.ops.aten._to_copy.default and (out.numel(), out.dtype) == (
            self.numel,
            torch.bfloat16,
        )
        return out


@pytest.mark.parametrize("needs_grad", [True, False])
def test_autocast_casts_the_head_once_and_changes_no_bit(needs_grad, small_chunks, monkeypatch):
    hidden, target, weight, head = inputs()
    hidden, weight, head = hidden.float().requires_grad_(), weight.float(), head.float()

    def score(logits, part):
        return (F.cross_entropy(logits.float(), target[part], reduction="none") * weight[part]).sum()

    def run():
        with (
            torch.autocast("cpu", torch.bfloat16, cache_enabled=False),
            torch.set_grad_enabled(needs_grad),
            CountedCasts(head.weight.numel()) as casts,
        ):
            total = chunked_sum(score, hidden, head)
            tokens = ChunkedPrediction(hidden, torch.ones(11), head).map(lambda logits: logits.argmax(-1))
            assert not torch.is_autocast_cache_enabled()
            once = casts.count
            head(hidden)
            assert casts.count == once + 1, "nothing is kept"
        gradients = torch.autograd.grad(total, [hidden, *head.parameters()]) if needs_grad else ()
        return once, total, tokens, *gradients

    casts, *found = run()
    assert casts == 2, "one for the sum and one for the tokens"
    for module in (chunked_logits, prediction):
        monkeypatch.setattr(module, "head_cast_once", lambda device: nullcontext())
    casts_of_each, *expected = run()
    assert casts < casts_of_each
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("frozen", [(), ("hidden",), ("weight",), ("bias",), ("weight", "bias")], ids=str)
def test_sum_and_gradients_are_those_of_the_whole(frozen, small_chunks):
    hidden, target, weight, head = inputs()
    hidden.requires_grad_("hidden" not in frozen)
    for name in set(frozen) - {"hidden"}:
        getattr(head, name).requires_grad_(False)

    def score(logits, part):
        return (F.cross_entropy(logits, target[part], reduction="none") * weight[part]).sum()

    trained = [tensor for tensor in (hidden, head.weight, head.bias) if tensor.requires_grad]
    whole = 3 * score(head(hidden), slice(None))
    parts = 3 * chunked_sum(score, hidden, head)
    torch.testing.assert_close(parts.double(), whole, rtol=1e-6, atol=0)
    for got, expected in zip(torch.autograd.grad(parts, trained), torch.autograd.grad(whole, trained), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-9)


def test_without_gradients_nothing_is_recorded(small_chunks):
    hidden, _, _, head = inputs()
    with torch.no_grad():
        total = chunked_sum(lambda logits, part: logits.sum(), hidden.requires_grad_(), head)
    assert not total.requires_grad
    torch.testing.assert_close(total, head(hidden).sum().detach())


def test_a_second_backward_pass_finds_the_same_gradients(small_chunks):
    hidden, _, _, head = inputs()
    total = chunked_sum(lambda logits, part: logits.square().sum(), hidden.requires_grad_(), head)
    first = torch.autograd.grad(total, [hidden, head.weight], retain_graph=True)
    second = torch.autograd.grad(2 * total, [hidden, head.weight])
    assert all(torch.equal(2 * one, two) for one, two in zip(first, second, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_factor_of_a_gradient_in_16_bits_is_not_rounded(dtype, small_chunks):
    hidden, _, _, head = inputs()
    hidden, head = hidden.to(dtype).requires_grad_(), head.to(dtype)
    total = chunked_sum(lambda logits, part: logits.float().square().sum(), hidden, head)
    ones = torch.autograd.grad(total, [hidden, *head.parameters()], retain_graph=True)
    thirds = torch.autograd.grad(total / 3, [hidden, *head.parameters()])
    for one, third in zip(ones, thirds, strict=True):
        assert torch.equal((one.float() / 3).to(dtype), third)


def test_a_sum_that_float16_does_not_hold_has_the_gradient_of_its_mean(small_chunks):
    count = 1000
    hidden, head = torch.full((count, 4), 100.0).half(), LinearHead(4, 20, dtype=torch.float16)
    total = chunked_sum(lambda logits, part: logits.float().sum(), hidden, head)
    (total / count).backward()
    torch.testing.assert_close(head.weight.grad, torch.full((20, 4), 100.0).half())


def test_a_prediction_is_mapped_in_order_and_without_gradients(small_chunks):
    hidden, target, _, head = inputs()
    answer = ChunkedPrediction(hidden.requires_grad_(), torch.ones(1, 11, dtype=torch.bool), head)
    got = answer.map(lambda logits, target: logits.gather(-1, target[:, None]).squeeze(-1), target)
    assert not got.requires_grad
    expected = head(hidden).gather(-1, target[:, None]).squeeze(-1)
    torch.testing.assert_close(got, expected.detach().float())  # functions get float32, as objectives do


class Logits(TorchDispatchMode):
    """Records the largest number of positions whose logits, or a tensor shaped like them, exist at once."""

    def __init__(self, vocab_size, width):
        super().__init__()
        self.vocab_size, self.width = vocab_size, width
        self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            shape = tensor.shape if isinstance(tensor, torch.Tensor) else ()
            output_layer = (self.width, self.vocab_size)
            if len(shape) == 2 and shape[1] == self.vocab_size and shape != output_layer:
                self.most = max(self.most, shape[0])
        return out


# rollout_k shows logits to a decoder, which takes them whole.
@pytest.mark.parametrize("name", sorted(set(NOISE) - {"rollout_k"}))
def test_a_training_step_of_every_strategy_is_the_same_and_never_holds_all_logits(name, clean, monkeypatch):
    module = DMaxModule(make_denoiser(sharpen=3.0), name)

    def step():
        module.zero_grad()
        with Logits(38, 32) as logits:
            total = torch.stack([loss.total for loss in module.view_losses(clean, RowGenerator(0, [0, 1, 2]))]).sum()
            total.backward()
        return total.detach(), {n: p.grad.clone() for n, p in module.named_parameters()}, logits.most

    whole, expected, most = step()
    monkeypatch.setitem(chunked_logits._MAX_LOGITS, "cpu", 38 * 5)
    monkeypatch.setattr(chunked_logits, "_FEWEST", 1)
    parts, got, fewer = step()
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)
    for parameter, gradient in got.items():
        torch.testing.assert_close(gradient, expected[parameter], rtol=1e-4, atol=1e-5)
    assert most > 5 >= fewer > 0
