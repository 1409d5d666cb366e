import math

import numpy as np
import pytest

from dmaxlit.evaluation import bootstrap
from dmaxlit.evaluation.bootstrap import bootstrap_mean, bootstrap_ratio


def reference(numerators, denominators, resamples, seed):
    """Return ratio and interval, prompt by prompt."""
    draws = np.random.default_rng(seed).integers(len(numerators), size=(resamples, len(numerators))).tolist()
    ratios = sorted(sum(numerators[i] for i in row) / sum(denominators[i] for i in row) for row in draws)

    def quantile(share):
        position = share * (resamples - 1)
        low = math.floor(position)
        high = min(low + 1, resamples - 1)
        return ratios[low] + (position - low) * (ratios[high] - ratios[low])

    return sum(numerators) / sum(denominators), quantile(0.025), quantile(0.975)


@pytest.mark.parametrize("seed", [0, 7])
def test_the_interval_is_that_of_resampled_prompts(seed):
    rng = np.random.default_rng(seed)
    numerators, denominators = rng.random(9), rng.integers(1, 5, 9).astype(float)
    estimate = bootstrap_ratio(numerators, denominators, 200, seed)
    expected = reference(numerators.tolist(), denominators.tolist(), 200, seed)
    assert (estimate.mean, estimate.low, estimate.high) == pytest.approx(expected)
    assert estimate.prompts == 9
    mean = bootstrap_mean(numerators, 200, seed)
    assert (mean.mean, mean.low, mean.high) == pytest.approx(reference(numerators.tolist(), [1] * 9, 200, seed))


def test_undefined_prompts_do_not_count():
    with_gaps = bootstrap_mean(np.array([1.0, math.nan, 3.0, math.nan]))
    assert with_gaps == bootstrap_mean(np.array([1.0, 3.0]))
    assert with_gaps.mean == 2
    assert with_gaps.prompts == 2
    assert bootstrap_ratio(np.array([0.0, 6.0]), np.array([0.0, 3.0])).mean == 2
    nothing = bootstrap_mean(np.array([math.nan]))
    assert nothing.to_dict() == {"mean": None, "low": None, "high": None, "prompts": 0}


def test_resamples_drawn_in_parts_are_the_same(monkeypatch):
    values = np.arange(10.0)
    whole = bootstrap_mean(values, 150)
    monkeypatch.setattr(bootstrap, "_CHUNK", 35)
    assert bootstrap_mean(values, 150) == whole


def test_an_interval_covers_the_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(3)
    estimates = [bootstrap_mean(rng.normal(1.0, 2.0, 60), 300, seed) for seed in range(200)]
    covered = sum(estimate.low <= 1.0 <= estimate.high for estimate in estimates)
    assert 180 <= covered <= 199
