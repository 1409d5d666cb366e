"""Calibration of the confidences that a decoder relies on.

For calibration over the whole range see ``torchmetrics.classification.BinaryCalibrationError``.
"""

from typing import Any

from torch import Tensor

from dmaxlit.errors import check_fraction
from dmaxlit.metrics.base import RatioMetric, check_same_length, quotient

__all__ = ["AcceptedPrecision", "accepted_precision"]


def accepted_precision(confidence: Tensor, right: Tensor, tau_acc: float = 0.9) -> Tensor:
    """Compute the fraction of right tokens among those with confidence of at least ``tau_acc``.

    Args:
        confidence: ``[N]`` probability of each token.
        right: ``[N]`` bool.
        tau_acc: Acceptance threshold in [0, 1].

    Returns:
        A float64 scalar; nan where no token is accepted.

    Raises:
        UserError: For a threshold outside [0, 1].
        ValueError: For vectors of different length.

    Example:
        >>> import torch
        >>> float(accepted_precision(torch.tensor([0.95, 0.9, 0.5]), torch.tensor([True, False, False])))
        0.5
    """
    return quotient(*_sums(confidence, right, check_fraction("tau_acc", tau_acc)))


def _sums(confidence: Tensor, right: Tensor, tau_acc: float) -> tuple[Tensor, Tensor]:
    check_same_length(confidence=confidence, right=right)
    accepted = confidence >= tau_acc
    return (accepted & right).sum(), accepted.sum()


class AcceptedPrecision(RatioMetric):
    """Fraction of right tokens among those a decoder accepts: with confidence of at least ``tau_acc``.

    With calibrated confidences it is at least ``tau_acc``; if it is lower, blocks end with errors left in them. See
    :func:`accepted_precision`.

    - Input ``confidence``: ``[N]`` in [0, 1]; ``right``: ``[N]`` bool.
    - Output: a scalar; nan where no token is accepted.

    Args:
        tau_acc: Acceptance threshold in [0, 1].
        **kwargs: Options of :class:`torchmetrics.Metric`.

    Example:
        >>> import torch
        >>> precision = AcceptedPrecision(tau_acc=0.9)
        >>> precision.update(torch.tensor([0.95, 0.9, 0.5]), torch.tensor([True, False, False]))
        >>> float(precision.compute())
        0.5
    """

    def __init__(self, tau_acc: float = 0.9, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tau_acc = check_fraction("tau_acc", tau_acc)

    def update(self, confidence: Tensor, right: Tensor) -> None:
        """Count tokens.

        Args:
            confidence: ``[N]`` probability of each token.
            right: ``[N]`` bool.

        Raises:
            ValueError: For vectors of different length.
        """
        self._add(*_sums(confidence, right, self.tau_acc))
