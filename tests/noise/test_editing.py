import pytest
import torch

from dmaxlit import UserError
from dmaxlit.noise import EditingNoise, LogitsPrediction
from dmaxlit.tokens import SpecialTokens
from dmaxlit.training.losses import view_loss
from tests.conftest import make_batch
from tests.noise.experimental.test_soft_on_policy import sharp_logits
from tests.noise.test_contract import converse
from tests.training.test_losses import slow_cross_entropy


def test_masks_and_wrong_tokens_are_disjoint_and_come_at_their_rates():
    clean = make_batch([4] * 64, [252] * 64)
    (view,) = converse(EditingNoise(level=0.3, edit_rate=0.25), clean)
    visible = clean.response & ~view.is_masked
    edited = visible & (view.ids != clean.ids)
    assert float(view.is_masked[clean.response].float().mean()) == pytest.approx(0.3, abs=0.02)
    assert float(edited[visible].float().mean()) == pytest.approx(0.25, abs=0.02)
    assert not (view.ids[edited] == clean.special.mask_id).any()


@pytest.mark.parametrize("mask", [0, 5, 37])
@pytest.mark.parametrize("gaps", [(), (range(1, 4), range(6, 7), range(8, 20))])
def test_wrong_tokens_are_uniform_over_the_others(mask, gaps):
    special = SpecialTokens(mask, eos_id=36, pad_id=35, vocab_size=38, gaps=gaps)
    clean = make_batch([0] * 64, [512] * 64, special=special)
    clean.ids.fill_(7)
    (view,) = converse(EditingNoise(level=0.0, edit_rate=1.0), clean, logits=torch.zeros(64, 512, 38))
    counts = torch.bincount(view.ids.flatten(), minlength=38).float()
    others = sorted(set(range(38)) - {mask, 7}.union(*gaps))
    assert counts.nonzero().flatten().tolist() == others
    expected = 64 * 512 / len(others)
    bound = {36: 67, 20: 44}[len(others)]  # chi-squared, 35 and 19 degrees of freedom: 99.9% is 66.6 and 43.8
    assert ((counts[others] - expected) ** 2 / expected).sum() < bound


def test_the_loss_weighs_masks_edits_and_the_rest(clean):
    logits = sharp_logits(clean)
    options = {"mask_weight": 1.0, "edit_weight": 0.5, "keep_weight": 0.25}
    (view,) = converse(EditingNoise(level=0.4, edit_rate=0.5, **options), clean, logits=logits)
    expected = 0.0
    for row, column in clean.response.nonzero().tolist():
        token, target = int(view.ids[row, column]), int(clean.ids[row, column])
        weight = 1.0 if token == clean.special.mask_id else 0.25 if token == target else 0.5
        expected += weight * slow_cross_entropy(logits[row, column], target)
    loss = view_loss(view, LogitsPrediction(logits[view.supervised], view.supervised), clean)
    assert float(loss.total) == pytest.approx(expected, rel=1e-5)


def test_without_keep_weight_only_corrupted_positions_are_supervised(clean):
    (view,) = converse(EditingNoise(level=0.4, edit_rate=0.5, keep_weight=0.0), clean)
    assert torch.equal(view.supervised, clean.response & (view.ids != clean.ids))


def test_own_guesses_come_from_a_rollout_in_which_the_edited_positions_are_masked(clean):
    answer = (clean.ids + 1) % 35
    logits = torch.full((*clean.ids.shape, 38), -torch.inf).scatter(-1, answer.unsqueeze(-1), 0.0)
    rollout, mixed = converse(EditingNoise(level=0.4, edit_rate=0.5, wrong="own"), clean, logits=logits)
    assert not rollout.requires_grad
    assert torch.equal(rollout.is_masked, mixed.is_masked | mixed.model_filled)
    assert torch.equal(mixed.ids[~rollout.is_masked], clean.ids[~rollout.is_masked])
    assert mixed.model_filled.any()
    assert torch.equal(mixed.ids[mixed.model_filled], answer[mixed.model_filled])


def test_the_second_turn_shows_the_first_answer_at_every_corrupted_position(clean):
    logits = torch.full((*clean.ids.shape, 38), -torch.inf)
    answer = (clean.ids + 1) % 35
    logits = logits.scatter(-1, answer.unsqueeze(-1), 0.0)
    first, second = converse(EditingNoise(level=0.4, edit_rate=0.5, second_turn_weight=0.5), clean, logits=logits)
    corrupted = first.is_masked | (first.ids != clean.ids)
    assert torch.equal(second.ids, torch.where(corrupted, answer, clean.ids))
    assert torch.equal(second.model_filled, corrupted)
    assert second.weight == 0.5
    assert torch.equal(second.supervised, clean.response)


@pytest.mark.parametrize(
    "bad", [{"edit_rate": 1.5}, {"wrong": "any"}, {"mask_weight": -1.0}, {"second_turn_weight": -0.1}]
)
def test_bad_options_are_refused_by_name(bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        EditingNoise(**bad)
