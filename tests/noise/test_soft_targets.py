import math

import pytest
import torch

from dmaxlit import UserError
from dmaxlit.noise import LogitsPrediction, View
from dmaxlit.noise.soft_targets import SoftTargets, TeacherTargets, divergences
from dmaxlit.training import chunked_logits
from dmaxlit.training.losses import view_loss
from dmaxlit.training.prediction import ChunkedPrediction, OutputHead
from tests.conftest import make_denoiser
from tests.noise.test_objectives import loss_of, make_logits

KINDS = ["forward_kl", "reverse_kl", "jsd", "confident_forward", "confident_reverse"]


def slow_kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def slow_divergence(p, q, kind):
    """Compute the divergence of two lists of probabilities from the definitions."""
    if kind == "jsd":
        middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
        return (slow_kl(p, middle) + slow_kl(q, middle)) / 2
    w = {"forward_kl": 1.0, "reverse_kl": 0.0, "confident_forward": max(q), "confident_reverse": 1 - max(q)}[kind]
    return w * slow_kl(q, p) + (1 - w) * slow_kl(p, q)


def probabilities(logits):
    return [float(x) for x in logits.double().softmax(-1)]


@pytest.mark.parametrize("kind", KINDS)
def test_divergences_are_those_of_the_definitions(kind):
    generator = torch.Generator().manual_seed(0)
    logits, target = (3 * torch.randn(6, 9, generator=generator) for _ in range(2))
    logits[:, 4] = target[:, 4] = -torch.inf
    values = divergences(logits, target.log_softmax(-1), kind)
    expected = [slow_divergence(probabilities(p), probabilities(q), kind) for p, q in zip(logits, target, strict=True)]
    assert values.tolist() == pytest.approx(expected, rel=1e-4)
    assert divergences(target, target.log_softmax(-1), kind).abs().max() < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences_and_reach_the_prediction_alone(kind):
    generator = torch.Generator().manual_seed(1)
    logits, target = (torch.randn(2, 5, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(lambda x: divergences(x, target.log_softmax(-1), kind), logits)
    divergences(logits, target.log_softmax(-1), kind).sum().backward()
    assert target.grad is None


@pytest.mark.parametrize("kind", KINDS)
def test_certain_predictions_have_finite_divergences_and_gradients(kind):
    logits = torch.tensor([[90.0, -90.0, -torch.inf], [-90.0, 90.0, -torch.inf]], requires_grad=True)
    target = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    values = divergences(logits, target.log(), kind)
    assert float(values[0].detach()) == pytest.approx(0, abs=1e-6)
    assert float(values[1].detach()) >= (math.log(2) - 1e-5 if kind == "jsd" else 100)
    values.sum().backward()
    assert logits.grad.isfinite().all()


def test_an_unknown_divergence_is_refused():
    with pytest.raises(UserError, match="kind: expected"):
        divergences(torch.zeros(1, 3), torch.zeros(1, 3), "distance")


def test_whole_distributions_are_weighted_and_summed(clean):
    logits = make_logits(clean)
    target = torch.rand(*clean.ids.shape, 38, generator=torch.Generator().manual_seed(1))
    target[..., clean.special.mask_id] = 0
    target = target / target.sum(-1, keepdim=True)
    weights = torch.rand(clean.ids.shape, generator=torch.Generator().manual_seed(2))
    expected = sum(
        0.5 * float(weights[at]) * slow_divergence(probabilities(logits[at]), target[at].tolist(), "forward_kl")
        for at in map(tuple, clean.response.nonzero().tolist())
    )
    loss = loss_of(clean, logits, SoftTargets(target, weights=weights), weight=0.5)
    assert float(loss.total) == pytest.approx(expected, rel=1e-4)


def test_the_mass_beyond_the_top_tokens_is_spread_over_the_others(clean):
    ids = torch.stack([torch.full_like(clean.ids, token) for token in (3, 20)], -1)
    top = torch.tensor([0.5, 0.3]).expand(*clean.ids.shape, 2)
    whole = torch.full((*clean.ids.shape, 38), 0.2 / 35)
    whole[..., 3], whole[..., 20], whole[..., clean.special.mask_id] = 0.5, 0.3, 0.0
    logits = make_logits(clean)
    for kind in KINDS:
        one, other = (loss_of(clean, logits, SoftTargets(*given, kind=kind)) for given in ((top, ids), (whole,)))
        torch.testing.assert_close(one.total, other.total)


def test_one_certain_token_is_cross_entropy(clean):
    logits = make_logits(clean)
    loss = loss_of(clean, logits, SoftTargets(torch.ones(*clean.ids.shape, 1), clean.ids.unsqueeze(-1)))
    torch.testing.assert_close(loss.total, loss.cross_entropy)


@pytest.mark.parametrize("kind", KINDS)
def test_a_teacher_in_chunks_has_the_loss_and_gradient_of_one_in_memory(clean, monkeypatch, kind):
    denoiser = make_denoiser(sharpen=3.0)
    generator, count = torch.Generator().manual_seed(0), int(clean.response.sum())
    hidden, later = (torch.randn(count, 32, generator=generator) for _ in range(2))

    def evaluate(make):
        inputs = hidden.clone().requires_grad_()
        objective = TeacherTargets.of(make(later), kind)
        assert not objective.states.requires_grad
        view = View(clean.ids, clean.response, "v", 0.7, objectives=(objective,))
        denoiser.zero_grad()
        total = view_loss(view, make(inputs), clean).total
        total.backward()
        return total.detach(), inputs.grad, denoiser.embedding.grad.clone()

    whole = evaluate(lambda states: LogitsPrediction(denoiser.logits(states), clean.response))
    monkeypatch.setitem(chunked_logits._MAX_LOGITS, "cpu", 38 * 5)
    monkeypatch.setattr(chunked_logits, "_FEWEST", 1)
    parts = evaluate(lambda states: ChunkedPrediction(states, clean.response, OutputHead(denoiser)))
    for one, other in zip(parts, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    # The definition, position by position.
    with torch.no_grad():
        pairs = zip(denoiser.logits(hidden), denoiser.logits(later), strict=True)
        expected = 0.7 * sum(slow_divergence(probabilities(p), probabilities(q), kind) for p, q in pairs)
    assert float(parts[0]) == pytest.approx(expected, rel=1e-3)


def test_weights_of_a_teacher_choose_positions(clean):
    logits, teacher = make_logits(clean), make_logits(clean).flip(1)
    head = LogitsPrediction(teacher[clean.response], clean.response).head
    half = clean.response & (torch.arange(clean.ids.shape[1]) % 2 == 0)
    loss = loss_of(clean, logits, TeacherTargets(teacher, head, "jsd", half.float()))
    expected = divergences(logits[half], teacher[half].log_softmax(-1), "jsd").sum()
    torch.testing.assert_close(loss.total, expected)
