"""Are confidences what they claim where a decoder relies on them?

For their calibration as a whole see ``torchmetrics.classification.BinaryCalibrationError``.
"""

from typing import Any

from torch import Tensor

from dmaxlit.errors import UserError
from dmaxlit.metrics.base import RatioMetric

__all__ = ["AcceptedPrecision"]


class AcceptedPrecision(RatioMetric):
    """Share of right tokens among those a decoder accepts: with confidence of at least ``tau_acc``.

    If confidences are calibrated it is at least ``tau_acc``; where it is less, blocks end with errors left in them.

    - Input ``confidence``: ``[N]`` in [0, 1]; ``right``: ``[N]`` bool.
    - Output: a scalar; nan where nothing is accepted.

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
        if not 0 <= tau_acc <= 1:
            raise UserError(f"tau_acc: expected a number in [0, 1], got {tau_acc}")
        self.tau_acc = tau_acc

    def update(self, confidence: Tensor, right: Tensor) -> None:
        """Count some tokens.

        Args:
            confidence: ``[N]`` probability of each token.
            right: ``[N]`` bool.
        """
        accepted = confidence >= self.tau_acc
        self._add((accepted & right).sum(), accepted.sum())
