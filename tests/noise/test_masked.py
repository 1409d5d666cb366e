import itertools

import pytest
import torch

from dmaxlit import UserError
from dmaxlit.noise import MaskedNoise
from dmaxlit.noise.base import Corruption
from dmaxlit.noise.schedules import CosineSchedule, LinearSchedule, PolynomialSchedule
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
def test_realized_weights_of_a_group_sum_to_its_response_tokens_and_one(per, clean):
    view = converse(MaskedNoise(level=0.6, per=per, weighting="realized"), clean)[0]
    for row in range(clean.ids.shape[0]):
        for block in range(3) if per == "block" else [slice(None)]:
            group = slice(block * 8, block * 8 + 8) if per == "block" else block
            masked = view.is_masked[row, group]
            if masked.any():
                expected = clean.response[row, group].sum() + 1
                assert view.weight[row, group][masked].sum() == pytest.approx(float(expected), rel=1e-5)


SCHEDULES = [LinearSchedule(), CosineSchedule(), PolynomialSchedule(2.0), PolynomialSchedule(0.7)]


@pytest.mark.parametrize("weighting", ["realized", "elbo"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=["linear", "cosine", "square", "root"])
@pytest.mark.parametrize(("length", "per"), [(1, "sequence"), (2, "block"), (4, "sequence"), (4, "block")])
def test_the_expected_loss_is_the_likelihood_bound(weighting, schedule, length, per, monkeypatch):
    """The bound of a toy denoiser with arbitrary cross-entropies, as the mean over all orders of unmasking."""
    # One row, a prompt of two tokens and then the response; in the grid of eight all of it lies in one block.
    costs = torch.rand(2**length, length, generator=torch.Generator().manual_seed(length), dtype=torch.float64)
    orders = list(itertools.permutations(range(length)))
    bound = 0.0
    for order in orders:
        for step, token in enumerate(order):
            still_masked = sum(1 << later for later in order[step:])
            bound += float(costs[still_masked, token]) / len(orders)

    # Every set of masks at many levels (denser near 0), with its probability; the strategy supplies only the weights.
    edges = torch.linspace(0, 1, 1001, dtype=torch.float64) ** 3
    levels, widths = (edges[1:] + edges[:-1]) / 2, edges.diff()
    clean = make_batch([2] * len(levels), [length] * len(levels))
    rate = 1 - schedule(levels)[0]
    strategy = MaskedNoise(level=(0.0, 1.0), per=per, weighting=weighting, schedule=schedule)
    expected = 0.0
    for masks in range(1, 2**length):
        tokens = [token for token in range(length) if masks >> token & 1]
        positions = torch.zeros_like(clean.response)
        positions[:, [2 + token for token in tokens]] = True
        corruption = Corruption(positions, levels[:, None].expand(positions.shape))
        monkeypatch.setattr(strategy, "corrupt", lambda *_, corruption=corruption: corruption)
        weight = converse(strategy, clean)[0].weight
        probability = rate ** len(tokens) * (1 - rate) ** (length - len(tokens))
        for token in tokens:
            expected += float((widths * probability * weight[:, 2 + token] * costs[masks, token]).sum())
    # The weights of ``elbo`` are bounded, which hides at most a thousandth of the mass of each token.
    assert expected == pytest.approx(bound, rel=2e-3 if weighting == "elbo" else 1e-4)


def test_realized_weights_have_less_variance_than_the_elbo_s():
    clean = make_batch([0] * 512, [16] * 512)
    totals = {}
    for weighting in ("elbo", "realized"):
        view = converse(MaskedNoise(level=(0.0, 1.0), weighting=weighting), clean)[0]
        totals[weighting] = (view.weight * view.is_masked).sum(1)
    assert totals["realized"].var() < 0.5 * totals["elbo"].var()


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


def test_a_strategy_is_shown_with_its_options():
    noise = MaskedNoise(level=(0.2, 0.8), per="block")
    options = "level=UniformLevel(low=0.2, high=0.8), weighting='none', supervise='masked', span_length=1"
    inherited = "per='block', stratified=False, schedule=LinearSchedule()"
    assert repr(noise) == f"MaskedNoise({options}, {inherited})"


def test_spans_are_masked_as_a_whole_and_independently():
    clean = make_batch(prompt_lengths=(0,) * 64, response_lengths=(24,) * 64)
    view = converse(MaskedNoise(level=0.5, span_length=4), clean)[0]
    spans = view.is_masked.view(64, -1, 4)
    assert (spans.all(-1) == spans.any(-1)).all()
    assert 0.4 < spans.all(-1).float().mean() < 0.6
    assert len({tuple(row) for row in spans.all(-1).tolist()}) > 20


def test_spans_begin_anew_with_a_block_and_spare_prompts(clean):
    view = converse(MaskedNoise(level=0.5, span_length=3), clean)[0]  # blocks of 8: spans of 3, 3 and 2
    place = torch.arange(clean.ids.shape[1])
    span = clean.blocks * 3 + place % 8 // 3
    for row in range(clean.ids.shape[0]):
        for number in span.unique():
            inside = view.is_masked[row, (span == number) & clean.response[row]]
            assert inside.all() or not inside.any()
    assert not (view.is_masked & ~clean.response).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"span_length": 0}, "span_length: expected at least 1"),
        ({"span_length": 2, "weighting": "realized"}, "span_length: expected 1 for weighting realized"),
        (
            {"supervise": "all", "weighting": "elbo"},
            "supervise: expected masked for weighting elbo",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        MaskedNoise(**options)
