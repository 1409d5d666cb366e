import math

import pytest
import torch

from dmaxlit.noise import LogitsPrediction, View
from dmaxlit.noise.objectives import ConfidentEntropy, cross_entropy
from dmaxlit.training.losses import rates, view_loss
from tests.conftest import make_batch
from tests.waits import Reads


def slow_cross_entropy(logits, target):
    logits = [float(x) for x in logits]
    top = max(logits)
    return math.log(sum(math.exp(x - top) for x in logits)) + top - logits[target]


def test_the_loss_is_the_weighted_sum_of_cross_entropies(clean):
    torch.manual_seed(0)
    logits = torch.randn(int(clean.response.sum()), 38)
    weight = torch.rand(clean.ids.shape)
    loss = view_loss(View(clean.ids, clean.response, "v", weight), LogitsPrediction(logits, clean.response), clean)
    expected = plain = 0.0
    for n, (row, column) in enumerate(clean.response.nonzero().tolist()):
        value = slow_cross_entropy(logits[n], int(clean.ids[row, column]))
        expected += float(weight[row, column]) * value
        plain += value
    assert float(loss.total) == pytest.approx(expected, rel=1e-5)
    assert float(loss.cross_entropy) == pytest.approx(plain, rel=1e-5)


def test_rates_of_a_hand_made_view():
    # Four response tokens 1 2 3 4; the view shows 1 9 9 4, the last but one as the model's own guess.
    clean = make_batch([0], [8])
    clean.ids[0] = torch.tensor([1, 2, 3, 4, 5, 6, 7, 8])
    ids = torch.tensor([[1, 9, 9, 4, 5, 6, 7, 8]])
    model_filled = torch.zeros(1, 8, dtype=torch.bool)
    model_filled[0, 2:4] = True
    predicted = torch.tensor([1, 2, 9, 0, 5, 6, 7, 8])  # corrects one wrong token, leaves one, breaks one right token
    logits = torch.nn.functional.one_hot(predicted, 38).float() * 9
    view = View(ids, clean.response, "predicted", model_filled=model_filled)
    logged = rates(view_loss(view, LogitsPrediction(logits, clean.response), clean).sums())
    assert float(logged["rollout_error"]) == pytest.approx(0.5)
    assert float(logged["corrected_predicted"]) == pytest.approx(0.5)
    assert float(logged["corrupted_predicted"]) == pytest.approx(1 / 6)


def test_a_view_without_wrong_tokens_reports_only_its_loss(clean):
    logits = torch.randn(int(clean.response.sum()), 38)
    loss = view_loss(View(clean.ids, clean.response, "masked"), LogitsPrediction(logits, clean.response), clean)
    assert set(rates(loss.sums())) == {"loss_masked"}


def test_positions_are_looked_for_once(clean):
    logits = torch.randn(int(clean.response.sum()), 38)
    view, prediction = View(clean.ids, clean.response, "v"), LogitsPrediction(logits, clean.response)
    with Reads() as reads:
        view_loss(view, prediction, clean)
    assert reads.seen == ["nonzero"]


def test_nothing_supervised_is_zero_not_nan(clean):
    nowhere = torch.zeros_like(clean.response)
    loss = view_loss(View(clean.ids, nowhere, "v"), LogitsPrediction(torch.randn(0, 38), nowhere), clean)
    assert float(loss.total) == 0
    assert rates(loss.sums()) == {}


def test_the_fill_has_no_part_in_any_figure():
    filled, plain = make_batch([3], [7], fill=True), make_batch([3], [7])
    assert int(filled.response.sum()) == 13
    ids = filled.ids.clone()
    ids[:, ::3] = 1
    torch.manual_seed(0)
    logits = torch.randn(1, 16, 38)
    masked = torch.zeros_like(filled.response)
    masked[:, ::2] = True
    weight = torch.rand(filled.ids.shape)
    losses = []
    for clean in (filled, plain):
        where = clean.response
        view = View(ids, where, "v", weight, masked & where, where, objectives=(cross_entropy, ConfidentEntropy(0.5)))
        losses.append(view_loss(view, LogitsPrediction(logits[where], where), clean))
    one, other = (
        {name: float(value) for name, value in vars(loss).items() if name not in ("name", "figures")} for loss in losses
    )
    assert one == pytest.approx(other)
    assert one["supervised"] == 7
