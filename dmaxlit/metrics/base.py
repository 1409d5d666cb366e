"""What the metrics share: two sums, and their quotient."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["RatioMetric", "same_length"]


class RatioMetric(Metric):
    """A quotient of two sums, ``numerator / denominator``; nan before anything was counted.

    The sums are kept in float64 (exact for counts up to 2^53) and added over ranks, so that the result does not depend
    on how the answers were shared out. Subclasses say in ``update`` what is added to either.

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
        """The quotient, a float64 scalar."""
        return self.numerator / self.denominator

    def counts(self) -> tuple[float, float]:
        """The two sums over all ranks: (numerator, denominator)."""
        with self.sync_context():
            return float(self.numerator), float(self.denominator)


def same_length(**columns: Tensor) -> None:
    """Refuse columns, one value an answer, that are not vectors of one length.

    Raises:
        ValueError: If so.
    """
    shapes = {name: tuple(column.shape) for name, column in columns.items()}
    if any(len(shape) != 1 for shape in shapes.values()) or len(set(shapes.values())) != 1:
        raise ValueError(f"expected vectors of one length, got shapes {shapes}")
