"""A chunked prediction is the same as one whose logits are in memory."""

import pytest
import torch

from dmaxlit.backbone.denoiser import Denoiser
from dmaxlit.noise import LogitsPrediction
from dmaxlit.training import chunked_logits
from dmaxlit.training.prediction import ChunkedPrediction, OutputHead
from tests.conftest import make_denoiser


@pytest.fixture(params=["one chunk", "several"])
def predictions(request, monkeypatch, clean):
    if request.param == "several":
        monkeypatch.setitem(chunked_logits._MAX_LOGITS, "cpu", 38 * 5)
        monkeypatch.setattr(chunked_logits, "_FEWEST", 1)
    denoiser = make_denoiser(sharpen=3.0)
    hidden = torch.randn(int(clean.response.sum()), 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    chunked = ChunkedPrediction(hidden, clean.response, OutputHead(denoiser))
    return chunked, LogitsPrediction(denoiser.logits(hidden), clean.response), hidden


def test_map_sum_and_scatter_agree(predictions, clean):
    chunked, in_memory, hidden = predictions
    target = clean.ids[clean.response]

    def probability(logits, tokens):
        return logits.softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)

    one, two = (prediction.map(probability, target) for prediction in (chunked, in_memory))
    torch.testing.assert_close(one, two)
    assert not one.requires_grad
    assert not two.requires_grad
    sums = [
        prediction.sum(lambda logits, chunk: probability(logits, target[chunk]).sum())
        for prediction in (chunked, in_memory)
    ]
    torch.testing.assert_close(*sums)
    gradients = [torch.autograd.grad(total, hidden)[0] for total in sums]
    torch.testing.assert_close(*gradients)
    assert torch.equal(chunked.scatter(target + 1, into=clean.ids), in_memory.scatter(target + 1, into=clean.ids))
    assert torch.equal(chunked.logits, in_memory.logits)


class Biased(Denoiser):
    """A denoiser that adds a trained bias to its logits."""

    def logits(self, hidden):
        return super().logits(hidden) + self.bias


@pytest.mark.parametrize("most", [38 * 5, 2**22], ids=["several chunks", "one chunk"])
def test_what_a_subclass_adds_to_the_logits_learns(most, monkeypatch, clean):
    monkeypatch.setitem(chunked_logits._MAX_LOGITS, "cpu", most)
    monkeypatch.setattr(chunked_logits, "_FEWEST", 1)
    denoiser = make_denoiser()
    denoiser.__class__, denoiser.bias = Biased, torch.nn.Parameter(torch.zeros(38))
    count = int(clean.response.sum())
    prediction = ChunkedPrediction(torch.ones(count, 32), clean.response, OutputHead(denoiser))
    prediction.sum(lambda logits, chunk: logits[:, 5].sum()).backward()
    assert denoiser.bias.grad.tolist() == [count if token == 5 else 0 for token in range(38)]


class Dropping(Denoiser):
    """A denoiser whose logits see dropout."""

    def logits(self, hidden):
        return super().logits(self.drop(hidden))


def test_the_dropout_that_a_subclass_adds_to_the_logits_is_left_out_where_none_is_wanted():
    denoiser = make_denoiser()
    denoiser.__class__, denoiser.drop = Dropping, torch.nn.Dropout(0.5)
    hidden = torch.ones(3, 32)
    for has_dropout in (True, False):
        head = OutputHead(denoiser, has_dropout)
        assert torch.equal(head(hidden), head(hidden)) is not has_dropout
    assert denoiser.drop.training


def test_a_prediction_without_gradients_has_none_later(clean):
    denoiser = make_denoiser()
    with torch.no_grad():
        hidden = torch.zeros(int(clean.response.sum()), 32)
        prediction = ChunkedPrediction(hidden, clean.response, OutputHead(denoiser))
    assert not prediction.logits.requires_grad
    assert not prediction.sum(lambda logits, chunk: logits[:, :5].sum()).requires_grad


@pytest.mark.parametrize("most", [38 * 5, 2**22], ids=["several chunks", "one chunk"])
def test_a_function_of_logits_gets_them_in_float32(most, monkeypatch, clean):
    monkeypatch.setitem(chunked_logits._MAX_LOGITS, "cpu", most)
    monkeypatch.setattr(chunked_logits, "_FEWEST", 1)
    denoiser, types = make_denoiser(dtype="bfloat16"), []
    hidden = torch.zeros(int(clean.response.sum()), 32, dtype=torch.bfloat16)
    chunked = ChunkedPrediction(hidden, clean.response, OutputHead(denoiser))
    for prediction in (chunked, LogitsPrediction(denoiser.logits(hidden), clean.response)):
        prediction.map(lambda logits: types.append(logits.dtype) or logits)
    assert set(types) == {torch.float32}
