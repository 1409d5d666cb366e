import math

import pytest
import torch

from dmaxlit.metrics import AnswerAccuracy, answer_accuracy, wilson_interval
from tests.metrics.conftest import check_sharing, column


def update(metric, answers):
    metric.update(column(answers, 5).bool())


def test_share_of_right_answers(answers):
    check_sharing(AnswerAccuracy, update, answers, len([a for a in answers if a[5]]) / len(answers))


def test_functional_form_is_the_share_too(answers):
    share = answer_accuracy(column(answers, 5).bool())
    assert share.dtype == torch.float64
    assert float(share) == len([a for a in answers if a[5]]) / len(answers)
    assert math.isnan(answer_accuracy(torch.tensor([], dtype=torch.bool)))


@pytest.mark.parametrize("measure", [AnswerAccuracy().update, answer_accuracy])
def test_a_table_of_verdicts_is_refused(measure):
    with pytest.raises(ValueError, match="vector"):
        measure(torch.ones(2, 2))


def by_bisection(right, total, z=1.959963984540054):
    """Find the proportions q whose z-interval just reaches p: |p - q| = z sqrt(q (1 - q) / n)."""
    p = right / total

    def edge(inside, outside):
        for _ in range(200):
            middle = (inside + outside) / 2
            if abs(p - middle) <= z * math.sqrt(middle * (1 - middle) / total):
                inside = middle
            else:
                outside = middle
        return inside

    return edge(p, 0.0), edge(p, 1.0)


@pytest.mark.parametrize(("right", "total"), [(1, 3), (98, 100), (500, 1000), (1, 1000), (999, 1000)])
def test_interval_inverts_the_score_test(right, total):
    assert wilson_interval(right, total) == pytest.approx(by_bisection(right, total), abs=1e-9)


def test_interval_at_the_ends_is_not_empty_and_stays_inside():
    assert wilson_interval(0, 20)[0] == 0.0 < wilson_interval(0, 20)[1] < 0.2
    assert 0.8 < wilson_interval(20, 20)[0] < wilson_interval(20, 20)[1] == 1.0
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_interval_narrows_with_answers_and_widens_with_confidence():
    widths = [high - low for low, high in (wilson_interval(n // 2, n) for n in (10, 100, 1000))]
    assert widths == sorted(widths, reverse=True)
    assert wilson_interval(5, 10, 0.99)[0] < wilson_interval(5, 10, 0.9)[0]


@pytest.mark.parametrize(("right", "total", "confidence"), [(3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0), (1, 2, 0.0)])
def test_impossible_interval_is_refused(right, total, confidence):
    with pytest.raises(ValueError, match=r"right|confidence"):
        wilson_interval(right, total, confidence)


def test_metric_knows_its_interval():
    metric = AnswerAccuracy()
    metric.update(torch.tensor([True] * 98 + [False] * 2))
    assert metric.interval() == wilson_interval(98, 100)
