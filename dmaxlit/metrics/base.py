"""The base of metrics that are a quotient of two sums, and checks of their arguments."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["RatioMetric"]


class RatioMetric(Metric):
    """A quotient of two sums, ``numerator / denominator``; nan before anything was counted.

    The sums are kept in float64 (exact for counts up to 2^53) and added over ranks, so the result does not depend on
    how the answers were distributed. Subclasses add to both in ``update``.

    Args:
        **kwargs: Options of :class:`torchmetrics.Metric`.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better: bool | None = True

    numerator: Tensor
    denominator: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("numerator", "denominator"):
            self.add_state(name, default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def _add(self, numerator: Tensor, denominator: Tensor) -> None:
        self.numerator += numerator.to(self.numerator)
        self.denominator += denominator.to(self.denominator)

    def compute(self) -> Tensor:
        """Return the quotient, a float64 scalar."""
        return self.numerator / self.denominator

    def counts(self) -> tuple[float, float]:
        """Return the two sums over all ranks: (numerator, denominator)."""
        with self.sync_context():
            return float(self.numerator), float(self.denominator)


def quotient(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divide two sums in float64; nan for 0 / 0."""
    return numerator.double() / denominator.double()


def check_same_length(**columns: Tensor) -> None:
    """Refuse columns, with one value per answer, that are not vectors of the same length.

    Raises:
        ValueError: If one is not a vector, or their lengths differ.
    """
    shapes = {name: tuple(column.shape) for name, column in columns.items()}
    if any(len(shape) != 1 for shape in shapes.values()) or len(set(shapes.values())) != 1:
        raise ValueError(f"expected vectors of one length, got shapes {shapes}")
