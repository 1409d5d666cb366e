import math

import numpy as np
import pytest
import torch

from dmaxlit.metrics import TokensPerForwardInterval, tpf_interval
from tests.metrics.conftest import column


def by_hand(pairs, z=1.959963984540054):
    """Linearise the ratio answer by answer."""
    ratio = sum(n for n, _ in pairs) / sum(f for _, f in pairs)
    scatter = sum((n - ratio * f) ** 2 for n, f in pairs) * len(pairs) / (len(pairs) - 1)
    error = math.sqrt(scatter) / sum(f for _, f in pairs)
    return ratio * math.exp(-z * error / ratio), ratio * math.exp(z * error / ratio)


def test_it_is_the_linearised_interval_and_adds_up_over_parts(answers):
    tokens, forwards = column(answers, 1).long(), column(answers, 2).long()
    expected = by_hand(list(zip(tokens.tolist(), forwards.tolist(), strict=True)))
    assert tpf_interval(tokens, forwards) == pytest.approx(expected)
    metric = TokensPerForwardInterval()
    for part in (slice(0, 5), slice(5, None)):
        metric.update(tokens[part], forwards[part])
    assert metric.compute().tolist() == pytest.approx(expected)
    assert metric.bounds() == pytest.approx(expected)
    other = TokensPerForwardInterval()
    other.update(tokens, forwards)
    metric.sums += other.sums
    assert metric.bounds()[1] - metric.bounds()[0] < expected[1] - expected[0]


def test_it_covers_the_ratio_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        forwards = rng.integers(2, 12, 60)
        tokens = 3 * forwards + rng.integers(-4, 5, 60)
        low, high = tpf_interval(torch.tensor(tokens), torch.tensor(forwards))
        covered += low < 3 < high
    assert 0.9 < covered / 400 < 0.99


def test_equal_answers_have_no_width_and_one_answer_has_no_interval():
    assert tpf_interval(torch.tensor([6, 9]), torch.tensor([2, 3])) == pytest.approx((3, 3))
    for count in (0, 1):
        assert all(math.isnan(v) for v in tpf_interval(torch.full((count,), 6), torch.full((count,), 2)))
    with pytest.raises(ValueError, match="one length"):
        tpf_interval(torch.tensor([1, 2]), torch.tensor([1]))
