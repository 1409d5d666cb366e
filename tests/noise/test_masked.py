import pytest
import torch

from dmaxlit import UserError
from dmaxlit.noise import MaskedNoise
from dmaxlit.noise.schedules import CosineSchedule
from tests.conftest import make_batch
from tests.noise.test_contract import converse


def test_supervises_masked_positions_or_all(clean):
    view = converse(MaskedNoise(level=0.5), clean)[0]
    assert torch.equal(view.supervised, view.is_masked)
    view = converse(MaskedNoise(level=0.5, supervise="all"), clean)[0]
    assert torch.equal(view.supervised, clean.response)


def test_elbo_weight_is_one_over_t_at_the_linear_schedule(clean):
    view = converse(MaskedNoise(level=0.25, weighting="elbo"), clean)[0]
    torch.testing.assert_close(view.weight, torch.full_like(view.weight, 4.0))


@pytest.mark.parametrize("per", ["sequence", "block"])
def test_realized_weight_makes_every_group_count_its_response_tokens(per, clean):
    view = converse(MaskedNoise(level=0.6, per=per, weighting="realized"), clean)[0]
    for row in range(clean.ids.shape[0]):
        for block in range(3) if per == "block" else [slice(None)]:
            group = slice(block * 8, block * 8 + 8) if per == "block" else block
            masked = view.is_masked[row, group]
            if masked.any():
                expected = clean.response[row, group].sum()
                assert view.weight[row, group][masked].sum() == pytest.approx(float(expected), rel=1e-5)


def test_per_block_levels_differ_within_a_row():
    clean = make_batch([0] * 32, [128] * 32)
    view = converse(MaskedNoise(level=(0.0, 1.0), per="block"), clean)[0]
    rates = view.is_masked.view(32, -1, 8).float().mean(-1)
    assert rates.std(1).mean() > 0.2
    view = converse(MaskedNoise(level=(0.0, 1.0), per="sequence"), clean)[0]
    rates = view.is_masked.float().mean(1)
    assert rates.std() > 0.2


def test_stratified_levels_cover_the_range_evenly():
    clean = make_batch([0] * 64, [128] * 64)
    strategy = MaskedNoise(level=(0.0, 1.0), stratified=True, weighting="elbo")
    levels = 1 / converse(strategy, clean)[0].weight[:, 0]
    counts = torch.histc(levels, bins=16, min=0, max=1)
    assert counts.min() >= 3
    assert counts.max() <= 5


def test_the_schedule_sets_the_rate():
    clean = make_batch([0] * 64, [256] * 64)
    view = converse(MaskedNoise(level=0.5, schedule=CosineSchedule()), clean)[0]
    assert float(view.is_masked.float().mean()) == pytest.approx(1 - 2**-0.5, abs=0.02)


@pytest.mark.parametrize("bad", [1.7, -0.1, (0.5, 0.2), (0.0, 1.2)])
def test_a_level_out_of_range_is_refused(bad):
    with pytest.raises(UserError, match="level: expected"):
        MaskedNoise(level=bad)


@pytest.mark.parametrize(("option", "value"), [("per", "token"), ("weighting", "x"), ("supervise", "none")])
def test_an_unknown_choice_is_refused(option, value):
    with pytest.raises(UserError, match=f"{option}: expected"):
        MaskedNoise(**{option: value})
