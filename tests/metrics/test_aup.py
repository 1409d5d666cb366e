import itertools
import math

import pytest
import torch

from dmaxlit.errors import UserError
from dmaxlit.metrics import AccuracyUnderParallelism, accuracy_under_parallelism

# d3LLM's GSM8K-CoT data (arXiv 2601.07568): points, and the area its script gives with y_max = 74.98.
PUBLISHED = {
    "Qwen-2.5-7B": ([(1, 74.10)], 74.1),
    "Fast-dLLM": ([(1, 74.79), (2.77, 74.68)], 205.8),
    "D2F": ([(1, 74.98), (2.88, 74.39)], 213.8),
    "dParallel": ([(1, 74.00), (5.14, 72.63)], 358.1),
    "d3LLM": ([(1, 74.02), (9.11, 73.09)], 637.7),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_examples(name):
    points, area = PUBLISHED[name]
    assert accuracy_under_parallelism(points, y_max=74.98) == pytest.approx(area, abs=0.05)
    assert accuracy_under_parallelism(points[::-1], y_max=74.98) == pytest.approx(area, abs=0.05)


def reference(points, y_max, alpha=3.0, floor=5.0):
    """Compute the area by summing thin strips under the curve of discounted accuracy, straight between the points."""
    points = sorted(points, key=lambda point: (point[0], -point[1]))
    points = [(r, y) for r, y in points if y >= points[0][1] - floor]
    area, strips = points[0][0] * points[0][1], 2000
    for (r0, y0), (r1, y1) in itertools.pairwise(points):
        g0, g1 = (y * min(math.exp(-alpha * (1 - y / y_max)), 1) for y in (y0, y1))
        area += sum((g0 + (g1 - g0) * (k + 0.5) / strips) * (r1 - r0) / strips for k in range(strips))
    return area


def test_a_longer_curve_is_the_area_under_it():
    points = [(2.0, 91.0), (1.0, 90.0), (4.0, 88.0), (3.0, 92.5), (4.0, 86.5)]
    for y_max in (92.5, 95.0, 80.0):
        assert accuracy_under_parallelism(points, y_max) == pytest.approx(reference(points, y_max), rel=1e-9)
    assert accuracy_under_parallelism(points) == pytest.approx(reference(points, 92.5), rel=1e-9)


def test_points_below_the_floor_are_dropped_also_at_the_end_and_in_between():
    curve = [(1.0, 90.0), (3.0, 88.0)]
    for broken in ([(4.0, 20.0)], [(2.0, 84.9)], [(2.0, 10.0), (9.0, 0.0)]):
        assert accuracy_under_parallelism(curve + broken) == accuracy_under_parallelism(curve)
    assert accuracy_under_parallelism([(1.0, 90.0), (2.0, 85.0)]) > 90  # exactly at the floor counts
    assert accuracy_under_parallelism([(1.0, 100 * 0.62), (2.0, 100 * 0.57)]) > 62
    assert accuracy_under_parallelism([(1.0, 80.0), (1.0, 90.0)]) == 90  # the best of equal TPF leads
    assert accuracy_under_parallelism([(1.0, 90.0), (2.0, 82.0)], floor=10) > accuracy_under_parallelism(curve[:1])


def test_the_metric_takes_shares_and_adds_up_points_of_two_ranks():
    metric, other = AccuracyUnderParallelism(y_max=0.7498), AccuracyUnderParallelism(y_max=0.7498)
    metric.update(torch.tensor([1.0]), torch.tensor([0.7400]))
    other.update(torch.tensor([5.14]), torch.tensor([0.7263]))
    metric.merge_state(other)
    assert float(metric.compute()) == pytest.approx(358.1, abs=0.05)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize(("own", "others"), [(slice(0, 1), slice(1, 2)), (slice(0, 0), slice(0, 2))])
def test_points_are_gathered_from_a_process_with_points_and_from_one_without(own, others):
    points = torch.tensor([[1.0, 5.14], [0.7400, 0.7263]], dtype=torch.float64)
    theirs = list(points[:, others])

    def gather(tensor, group):
        assert tensor.dtype == torch.float64  # as what the other process sends
        return [tensor, theirs.pop(0)]

    metric = AccuracyUnderParallelism(y_max=0.7498, dist_sync_fn=gather, distributed_available_fn=lambda: True)
    if own.stop > 0:
        metric.update(*points[:, own])
    assert float(metric.compute()) == pytest.approx(358.1, abs=0.05)


def test_nothing_right_is_worth_nothing():
    assert accuracy_under_parallelism([(1.0, 0.0), (2.0, 0.0)]) == 0.0
    assert math.isnan(accuracy_under_parallelism([]))


@pytest.mark.parametrize(
    ("points", "options", "message"),
    [
        ([(0.0, 50.0)], {}, "points: expected a TPF above 0, got 0.0"),
        ([(1.0, 101.0)], {}, "points: expected an accuracy in percent, from 0 to 100, got 101.0"),
        ([(1.0, 50.0)], {"y_max": 0.0}, "y_max: expected a number above 0, got 0.0"),
        ([(1.0, 50.0)], {"alpha": -1.0}, "alpha: expected a number of at least 0, got -1.0"),
        ([(1.0, 50.0)], {"floor": -1.0}, "floor: expected a number of at least 0, got -1.0"),
    ],
)
def test_bad_points_and_options_are_refused(points, options, message):
    with pytest.raises(UserError, match=message):
        accuracy_under_parallelism(points, **options)


def test_vectors_of_different_length_are_refused_when_they_are_added():
    with pytest.raises(ValueError, match="expected vectors of one length"):
        AccuracyUnderParallelism().update(torch.ones(2), torch.ones(3))


@pytest.mark.parametrize("alpha", [0.0, 1.0, 10.0])
def test_accuracy_lost_is_discounted_as_steeply_as_told(alpha):
    points = [(1.0, 90.0), (2.0, 91.0), (3.0, 92.5), (4.0, 88.0)]
    expected = pytest.approx(reference(points, 95.0, alpha), rel=1e-9)
    assert accuracy_under_parallelism(points, 95.0, alpha=alpha) == expected


def test_the_metric_has_the_options_of_the_function():
    rates, accuracies = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.9, 0.8, 0.7])
    metric = AccuracyUnderParallelism(y_max=0.95, alpha=1.0, floor=12.0)
    metric.update(rates, accuracies)
    points = [(1.0, 90.0), (2.0, 80.0), (3.0, 70.0)]
    assert float(metric.compute()) == pytest.approx(reference(points, 95.0, 1.0, 12.0), rel=1e-5)
    with pytest.raises(UserError, match="y_max: expected a fraction above 0 and at most 1, got 95"):
        AccuracyUnderParallelism(y_max=95.0)
