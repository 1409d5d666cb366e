import pytest
import torch

from dmaxlit import UserError
from dmaxlit.noise import LogitsPrediction, OnPolicyNoise
from dmaxlit.randomness import RowGenerator
from tests.conftest import make_batch
from tests.noise.test_contract import converse


def test_both_views_supervise_all_response_positions_of_the_same_sample(clean):
    masked, predicted = converse(OnPolicyNoise(level=0.75), clean)
    assert torch.equal(masked.supervised, clean.response)
    assert torch.equal(predicted.supervised, clean.response)
    assert torch.equal(predicted.ids[~masked.is_masked], clean.ids[~masked.is_masked])
    assert torch.equal(predicted.model_filled, masked.is_masked)


def test_argmax_rollout_puts_the_best_token_at_masked_positions(clean):
    torch.manual_seed(0)
    logits = torch.randn(*clean.ids.shape, 38)
    logits[..., clean.special.mask_id] = -torch.inf
    masked, predicted = converse(OnPolicyNoise(rollout="argmax"), clean, logits=logits)
    assert torch.equal(predicted.ids[masked.is_masked], logits.argmax(-1)[masked.is_masked])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_sampled_rollout_follows_the_softmax(temperature):
    clean = make_batch([0] * 64, [512] * 64)
    torch.manual_seed(0)
    row = torch.randn(38)
    row[clean.special.mask_id] = -torch.inf
    logits = row.expand(*clean.ids.shape, -1)
    _, predicted = converse(OnPolicyNoise(level=1.0, temperature=temperature), clean, logits=logits)
    observed = torch.bincount(predicted.ids.flatten(), minlength=38) / predicted.ids.numel()
    torch.testing.assert_close(observed, torch.softmax(row / temperature, -1), atol=0.006, rtol=0)


def test_a_token_of_probability_zero_is_never_drawn(clean):
    logits = torch.full((*clean.ids.shape, 38), -torch.inf)
    logits[..., 5] = 0.0
    _, predicted = converse(OnPolicyNoise(level=1.0), clean, logits=logits)
    assert (predicted.ids[clean.response] == 5).all()


def test_the_rollout_carries_no_gradient(clean):
    logits = torch.randn(int(clean.response.sum()), 38, requires_grad=True)
    tokens = OnPolicyNoise().draw(LogitsPrediction(logits, clean.response), RowGenerator(0, [0, 1, 2]))
    assert not tokens.requires_grad


def test_alternating_trains_one_view_a_step():
    even, odd = make_batch(), make_batch()
    object.__setattr__(odd, "step", 1)
    strategy = OnPolicyNoise(alternate=True)
    assert [view.weight for view in converse(strategy, even)] == [1.0]
    assert [view.weight for view in converse(strategy, odd)] == [0.0, 1.0]


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": 0.0},
        {"rollout": "beam"},
        {"masked_weight": -1.0},
        {"masked_weight": 0, "predicted_weight": 0},
        {"masked_weight": 0.0, "alternate": True},
        {"predicted_weight": 0.0, "alternate": True},
    ],
)
def test_bad_options_are_refused_by_name(bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        OnPolicyNoise(**bad)
