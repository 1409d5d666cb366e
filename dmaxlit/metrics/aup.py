"""Accuracy under parallelism (AUP)."""

import itertools
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from dmaxlit.errors import UserError
from dmaxlit.metrics.base import check_same_length

__all__ = ["AccuracyUnderParallelism", "accuracy_under_parallelism"]

_ROUNDING = 1e-6  # of accuracies that were converted from fractions


def accuracy_under_parallelism(
    points: Iterable[tuple[float, float]], y_max: float | None = None, alpha: float = 3.0, floor: float = 5.0
) -> float:
    """Compute the AUP of one method's accuracy-TPF curve (d3LLM, arXiv 2601.07568).

    With the points sorted by TPF (for equal TPF the best first), ``W(y) = min(exp(-alpha (1 - y / y_max)), 1)`` and
    ``y_1`` the accuracy at the lowest TPF::

        AUP = rho_1 y_1 + 1/2 sum_{k >= 2} (rho_k - rho_{k-1}) (y_k W(y_k) + y_{k-1} W(y_{k-1}))

    Points with ``y < y_1 - floor`` are dropped, even if others follow them. (The published script refuses a curve that
    ends below the floor, but such a curve shows where a method breaks down.) Without points the result is nan.

    Args:
        points: (TPF, accuracy in percent).
        y_max: Best accuracy of any method on the task, in percent. Default: the best of these points.
        alpha: Steepness of the discount for accuracy below ``y_max``, at least 0.
        floor: Percentage points below ``y_1`` at which a point no longer counts, at least 0.

    Raises:
        UserError: For a TPF that is not above 0, an accuracy outside [0, 100], a ``y_max`` that is not above 0, or a
            negative ``alpha`` or ``floor``.

    Example:
        >>> round(accuracy_under_parallelism([(1, 74.00), (5.14, 72.63)], y_max=74.98), 1)
        358.1
    """
    curve = sorted(points, key=lambda point: (point[0], -point[1]))
    for rho, y in curve:
        if not (rho > 0 and math.isfinite(rho)):
            raise UserError(f"points: expected a TPF above 0, got {rho}")
        if not 0 <= y <= 100:
            raise UserError(f"points: expected an accuracy in percent, from 0 to 100, got {y}")
    for name, value in (("alpha", alpha), ("floor", floor)):
        if not value >= 0:
            raise UserError(f"{name}: expected a number of at least 0, got {value}")
    if not curve:
        return math.nan
    best = max(y for _, y in curve) if y_max is None else y_max
    if best <= 0:
        if y_max is None:
            return 0.0  # no answer is right at any point
        raise UserError(f"y_max: expected a number above 0, got {y_max}")

    def discounted(y: float) -> float:
        return y * min(math.exp(-alpha * (1 - y / best)), 1.0)

    curve = [(rho, y) for rho, y in curve if y >= curve[0][1] - floor - _ROUNDING]
    area = curve[0][0] * curve[0][1]
    for (rho_before, before), (rho, y) in itertools.pairwise(curve):
        area += (rho - rho_before) * (discounted(before) + discounted(y)) / 2
    return area


class AccuracyUnderParallelism(Metric):
    """AUP of all points added so far; see :func:`accuracy_under_parallelism`.

    - Input ``tpf``: ``[N]``; ``accuracy``: ``[N]`` fractions in [0, 1].
    - Output: a scalar, in percent times TPF.

    Args:
        y_max: Best accuracy of any method on the task, as a fraction. Default: the best of these points.
        alpha: As in the function.
        floor: As in the function, in percentage points.
        **kwargs: Options of :class:`torchmetrics.Metric`.

    Raises:
        UserError: If ``y_max`` is no fraction.

    Example:
        >>> import torch
        >>> aup = AccuracyUnderParallelism(y_max=0.7498)
        >>> aup.update(torch.tensor([1.0, 2.88]), torch.tensor([0.7498, 0.7439]))
        >>> round(float(aup.compute()), 1)
        213.8
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True

    tpf: list[Tensor]
    accuracy: list[Tensor]

    def __init__(self, y_max: float | None = None, alpha: float = 3.0, floor: float = 5.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if y_max is not None and not 0 < y_max <= 1:
            raise UserError(f"y_max: expected a fraction above 0 and at most 1, got {y_max}")
        self.y_max, self.alpha, self.floor = y_max, alpha, floor
        self.add_state("tpf", default=[], dist_reduce_fx="cat")
        self.add_state("accuracy", default=[], dist_reduce_fx="cat")
        self.set_dtype(torch.float64)  # also of the empty tensor that a rank without points contributes

    def update(self, tpf: Tensor, accuracy: Tensor) -> None:
        """Add points.

        Args:
            tpf: ``[N]``.
            accuracy: ``[N]`` fractions in [0, 1].

        Raises:
            ValueError: For vectors of different length.
        """
        tpf, accuracy = tpf.double().flatten(), accuracy.double().flatten()
        check_same_length(tpf=tpf, accuracy=accuracy)
        self.tpf.append(tpf)
        self.accuracy.append(accuracy)

    def compute(self) -> Tensor:
        """Return the area, a float64 scalar."""
        # A list, or a tensor once it has been gathered from several processes.
        columns = [dim_zero_cat(state) if len(state) else torch.zeros(0) for state in (self.tpf, self.accuracy)]
        points = zip(columns[0].tolist(), (100 * columns[1]).tolist(), strict=True)
        y_max = None if self.y_max is None else 100 * self.y_max
        area = accuracy_under_parallelism(points, y_max, self.alpha, self.floor)
        return torch.tensor(area, dtype=torch.float64)
