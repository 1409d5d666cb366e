import math

import pytest
import torch

from dmaxlit import UserError
from dmaxlit.noise import OnPolicyNoise
from dmaxlit.noise.experimental import SoftOnPolicyNoise
from tests.conftest import make_batch
from tests.noise.test_contract import converse


def sharp_logits(clean, seed=0):
    logits = 4 * torch.randn(*clean.ids.shape, 38, generator=torch.Generator().manual_seed(seed))
    logits[..., clean.special.mask_id] = -torch.inf
    return logits


def slow_view(clean, masked, logits, tau, contiguous):
    """Compute tokens, masks and shares of the predicted view position by position from the formula."""
    ids, shares = {}, {}
    for row in range(clean.ids.shape[0]):
        for start in range(0, clean.ids.shape[1], clean.block_length):
            blocked, first = False, True
            for column in range(start, start + clean.block_length):
                at = (row, column)
                if not masked[at]:
                    ids[at] = int(clean.ids[at])
                    continue
                values = [float(x) for x in logits[at]]
                top = max(values)
                token, confidence = values.index(top), 1 / sum(math.exp(x - top) for x in values)
                promote = first or (confidence > tau and not (contiguous and blocked))
                blocked, first = blocked or confidence <= tau, False
                ids[at] = token if promote else clean.special.mask_id
                if promote:
                    shares[at] = {token: confidence, clean.special.mask_id: 1 - confidence}
    return ids, shares


@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("tau", [0.0, 0.4, 0.8, 1.0])
def test_the_predicted_view_is_what_the_formula_says(tau, contiguous, clean):
    logits = sharp_logits(clean)
    masked, predicted = converse(
        SoftOnPolicyNoise(tau_dec=tau, contiguous=contiguous, clean_fraction=0.0), clean, logits=logits
    )
    ids, shares = slow_view(clean, masked.is_masked, logits, tau, contiguous)
    for at, token in ids.items():
        assert int(predicted.ids[at]) == token
        assert bool(predicted.soft.where[at]) == (at in shares)
    for at, expected in shares.items():
        got = dict(zip(predicted.soft.ids[at].tolist(), predicted.soft.weights[at].tolist(), strict=True))
        assert got == pytest.approx(expected, abs=1e-6)
    assert torch.equal(predicted.model_filled, predicted.soft.where)


def test_threshold_zero_promotes_what_oput_fills(clean):
    logits = sharp_logits(clean)
    _, soft = converse(SoftOnPolicyNoise(tau_dec=0.0, clean_fraction=0.0), clean, logits=logits)
    _, hard = converse(OnPolicyNoise(rollout="argmax"), clean, logits=logits)
    assert torch.equal(soft.ids, hard.ids)
    assert torch.equal(soft.model_filled, hard.model_filled)


def test_sampled_guesses_enter_at_their_own_probability(clean):
    logits = sharp_logits(clean)
    _, view = converse(
        SoftOnPolicyNoise(tau_dec=0.0, rollout="sample", temperature=2.0, clean_fraction=0.0), clean, logits=logits
    )
    share = logits.softmax(-1).gather(-1, view.ids.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(view.soft.weights[..., 0][view.soft.where], share[view.soft.where])
    assert (view.ids != logits.argmax(-1))[view.soft.where].any()


def test_a_share_of_the_promoted_positions_shows_the_clean_token_at_the_guess_s_confidence():
    clean = make_batch([4] * 64, [252] * 64)
    logits = sharp_logits(clean)
    none, some, every = (
        converse(SoftOnPolicyNoise(clean_fraction=clean_fraction), clean, logits=logits)[1]
        for clean_fraction in (0.0, 0.25, 1.0)
    )
    promoted = none.soft.where
    for view in (some, every):
        assert torch.equal(view.soft.where, promoted)
        assert torch.equal(view.soft.weights, none.soft.weights)
        assert torch.equal(view.soft.ids[..., 0][promoted], view.ids[promoted])
    assert torch.equal(every.ids[promoted], clean.ids[promoted])
    assert not every.model_filled.any()
    forced = promoted & ~some.model_filled
    assert float(forced[promoted].float().mean()) == pytest.approx(0.25, abs=0.02)
    assert torch.equal(some.ids[forced], clean.ids[forced])
    assert torch.equal(some.ids[some.model_filled], none.ids[some.model_filled])


def test_each_block_draws_its_threshold_from_the_range():
    clean = make_batch([0] * 64, [64] * 64)
    logits = sharp_logits(clean)
    strategy = SoftOnPolicyNoise(level=1.0, tau_dec=(0.2, 0.8), contiguous=False)
    _, view = converse(strategy, clean, logits=logits)
    confidence = logits.softmax(-1).amax(-1).view(-1, 8)
    promoted = view.soft.where.view(-1, 8)
    assert (promoted | (confidence <= 0.8)).all()
    low = promoted[:, 1:] & (confidence[:, 1:] < 0.5)  # the first of a block is promoted in any case
    high = ~promoted[:, 1:] & (confidence[:, 1:] > 0.5)
    assert not (promoted[:, 1:] & (confidence[:, 1:] <= 0.2)).any()
    assert low.any()
    assert high.any()
    assert not (low.any(1) & high.any(1)).any()  # one threshold a block


@pytest.mark.parametrize("bad", [-0.1, 1.1, (0.6, 0.4)])
def test_a_threshold_out_of_range_is_refused(bad):
    with pytest.raises(UserError, match="tau_dec: expected"):
        SoftOnPolicyNoise(tau_dec=bad)


def test_a_share_out_of_range_is_refused():
    with pytest.raises(UserError, match=r"clean_fraction: expected a number in \[0, 1\], got 2"):
        SoftOnPolicyNoise(clean_fraction=2)
