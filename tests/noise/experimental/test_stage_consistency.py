import math
from dataclasses import replace

import pytest
import torch

from dmaxlit import DMaxModule, UserError
from dmaxlit.noise.experimental import StageConsistencyNoise
from tests.conftest import make_batch
from tests.noise.test_contract import converse
from tests.noise.test_soft_targets import probabilities, slow_divergence
from tests.noise.test_tsd import converse_with, generator_of, make_lively_denoiser, slow_decided


def slow_stage(decided, stage, stages):
    """Return the forwards made when at least ``stage / stages`` of a block's tokens are revealed."""
    for forward in range(33):
        if sum(step < forward for step in decided) >= stage * len(decided) / stages:
            return forward
    raise AssertionError


@pytest.mark.parametrize(
    ("options", "step"),
    [
        ({"stages": 3}, 0),
        ({"stages": 5, "gap": 2, "divergence": "confident_reverse", "masked_weight": 0.3}, 0),
        ({"stages": 3, "gap_steps": 4, "level": 0.7, "revealed_weight": 0.2}, 6),
        ({"stages": 1, "masked_weight": 0.0, "steps": 5}, 0),
    ],
)
def test_the_loss_is_that_of_the_formula(options, step):
    clean = replace(make_batch([3, 8], [13, 14]), step=step)
    denoiser, strategy = make_lively_denoiser(), StageConsistencyNoise(threshold=0.25, **options)
    pairs = converse_with(strategy, clean, denoiser)
    *rollout, (later, late_logits), (view, logits) = pairs
    steps = options.get("steps", 8)
    assert len(rollout) == steps
    decided = slow_decided(clean, rollout[0][0].is_masked, pairs, 0.25, steps)

    stages, gap = options["stages"], options.get("gap", 1) + (1 if step else 0)
    assert strategy.gap_at(step) == gap
    generator = generator_of(clean)
    generator.rand(1)
    generator.rand(clean.ids.shape[1])
    u = generator.rand(int(clean.blocks[-1]) + 1)
    expected, early, late = 0.0, torch.zeros_like(clean.response), torch.zeros_like(clean.response)
    kind = options.get("divergence", "confident_forward")
    for row, block in ((row, block) for row in range(2) for block in range(clean.ids.shape[1] // 8)):
        own = {c: s for (r, c), s in decided.items() if r == row and c // 8 == block}
        drawn = int(u[row, block] * (stages - gap + 1))
        first, second = (slow_stage(list(own.values()), j, stages) for j in (drawn, drawn + gap))
        for column, forward in own.items():
            early[row, column], late[row, column] = forward >= first, forward >= second
            p, q = (probabilities(x[row, column]) for x in (logits, late_logits))
            if forward >= second:
                expected += options.get("masked_weight", 1.0) * slow_divergence(p, q, kind)
            elif forward >= first:
                expected -= options.get("revealed_weight", 1.0) * math.log(p[int(clean.ids[row, column])])
    assert torch.equal(view.supervised, early)
    assert torch.equal(view.ids, clean.with_masks(early))
    assert torch.equal(later.ids, clean.with_masks(late))
    assert not later.requires_grad
    losses = DMaxModule(denoiser, strategy).view_losses(clean, generator_of(clean))
    assert float(losses[-1].total.detach()) == pytest.approx(expected, rel=1e-3)
    assert expected > 0.1


def test_stages_are_cut_by_the_number_of_revealed_tokens():
    # Equal predictions are decided from left to right, one at each forward: stages of two tokens.
    clean = make_batch([0] * 64, [64] * 64)
    *_, later, view = converse(StageConsistencyNoise(), clean, logits=torch.zeros(*clean.ids.shape, 38))
    left, after = (v.is_masked.view(-1, 8).sum(-1) for v in (view, later))
    assert set(left.tolist()) == {8, 6, 4, 2}
    assert torch.equal(after, left - 2)


def test_the_gap_grows_up_to_all_stages():
    strategy = StageConsistencyNoise(stages=4, gap=2, gap_steps=10)
    assert [strategy.gap_at(step) for step in (0, 9, 10, 19, 20, 500)] == [2, 2, 3, 3, 4, 4]
    assert StageConsistencyNoise(gap=3).gap_at(10_000) == 3


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"stages": 0}, "stages: expected at least 1, got 0"),
        ({"gap": 0}, "gap: expected at least 1, got 0"),
        ({"stages": 3, "gap": 4}, "gap: expected at most stages, 3, got 4"),
        ({"gap_steps": 0}, "gap_steps: expected at least 1, got 0"),
        ({"divergence": "kl"}, "divergence: expected"),
        ({"masked_weight": 0.0, "revealed_weight": 0.0}, "masked_weight, revealed_weight: expected numbers >= 0"),
        ({"threshold": -0.1}, "threshold: expected"),
        ({"steps": 0}, "steps: expected at least 1"),
    ],
)
def test_bad_options_are_refused(options, problem):
    with pytest.raises(UserError, match=problem):
        StageConsistencyNoise(**options)
