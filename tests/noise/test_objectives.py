import math

import pytest
import torch

from dmaxlit.noise import LogitsPrediction, View
from dmaxlit.noise.objectives import SampledTargets, cross_entropy
from dmaxlit.training.losses import rates, view_loss


def make_logits(clean):
    logits = torch.randn(*clean.ids.shape, 38, generator=torch.Generator().manual_seed(0))
    logits[..., clean.special.mask_id] = -torch.inf
    return logits


def loss_of(clean, logits, *objectives, **fields):
    view = View(clean.ids, clean.response, "v", objectives=objectives, **fields)
    return view_loss(view, LogitsPrediction(logits[clean.response], clean.response), clean)


def test_sampled_targets_are_weighted_negative_log_probabilities(clean):
    logits = make_logits(clean)
    tokens = torch.randint(0, 35, (*clean.ids.shape, 3), generator=torch.Generator().manual_seed(1))
    weights = torch.randn(*clean.ids.shape, 3, generator=torch.Generator().manual_seed(2))
    expected = 0.0
    for row, column in clean.response.nonzero().tolist():
        norm = math.log(sum(math.exp(float(x)) for x in logits[row, column] if math.isfinite(x)))
        for k in range(3):
            score = float(logits[row, column, tokens[row, column, k]]) - norm
            expected -= 0.5 * float(weights[row, column, k]) * score
    loss = loss_of(clean, logits, SampledTargets(tokens, weights), weight=0.5)
    assert float(loss.total) == pytest.approx(expected, rel=1e-4)


def test_one_clean_target_of_weight_one_is_cross_entropy(clean):
    logits = make_logits(clean)
    one = loss_of(clean, logits, SampledTargets(clean.ids.unsqueeze(-1), torch.ones(*clean.ids.shape, 1)))
    other = loss_of(clean, logits, cross_entropy)
    torch.testing.assert_close(one.total, other.total)
    assert torch.equal(one.cross_entropy, other.cross_entropy)


def test_objectives_are_added_and_own_ones_receive_their_positions(clean):
    seen = []

    def own(at):
        seen.append(at.take(clean.ids))
        assert torch.equal(at.take(clean.ids), at.target)
        return at.logits.logsumexp(-1).sum()

    logits = make_logits(clean)
    both = loss_of(clean, logits, cross_entropy, own)
    expected = loss_of(clean, logits, cross_entropy).total + logits[clean.response].logsumexp(-1).sum()
    torch.testing.assert_close(both.total, expected)
    assert len(seen) == 1


def test_figures_of_a_view_are_logged_as_means(clean):
    figures = {"reward": (torch.tensor(3.0), torch.tensor(4.0))}
    logged = rates(loss_of(clean, make_logits(clean), cross_entropy, figures=figures).sums())
    assert float(logged["reward"]) == 0.75
