"""Accuracy of answers and its confidence interval."""

import math
from statistics import NormalDist

import torch
from torch import Tensor

from dmaxlit.metrics.base import RatioMetric, quotient

__all__ = ["AnswerAccuracy", "answer_accuracy", "wilson_interval"]


def answer_accuracy(right: Tensor) -> Tensor:
    """Compute the fraction of answers that their checker accepts, ``right / N``.

    Args:
        right: ``[N]`` bool, one verdict per answer.

    Returns:
        A float64 scalar; nan for no answers.

    Raises:
        ValueError: For anything but a vector.

    Example:
        >>> import torch
        >>> float(answer_accuracy(torch.tensor([True, True, False, True])))
        0.75
    """
    return quotient(*_sums(right))


def _sums(right: Tensor) -> tuple[Tensor, Tensor]:
    if right.ndim != 1:
        raise ValueError(f"right: expected a vector, got shape {tuple(right.shape)}")
    return right.sum(), torch.tensor(len(right))


def wilson_interval(right: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Compute the Wilson score interval of a proportion ``p = right / total``.

    With z the normal quantile, ``(p + z^2/2n ± z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)``. Unlike ``p ± z sigma`` it
    stays in [0, 1] and is not empty at 0% and 100%.

    Args:
        right: Successes.
        total: Trials, n.
        confidence: Coverage, in (0, 1).

    Returns:
        (low, high); (0, 1) without trials.

    Raises:
        ValueError: For ``right`` outside [0, total] or ``confidence`` outside (0, 1).

    Example:
        >>> tuple(round(bound, 4) for bound in wilson_interval(98, 100))
        (0.93, 0.9945)
    """
    if not 0 <= right <= total:
        raise ValueError(f"right: expected 0 to {total}, got {right}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a number between 0 and 1, got {confidence}")
    if total == 0:
        return 0.0, 1.0
    z, p = NormalDist().inv_cdf((1 + confidence) / 2), right / total
    centre, scale = p + z * z / (2 * total), 1 + z * z / total
    half = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    low = 0.0 if right == 0 else (centre - half) / scale
    high = 1.0 if right == total else (centre + half) / scale
    return low, high


class AnswerAccuracy(RatioMetric):
    """Fraction of answers that their checker accepts, ``right / N``; see :func:`answer_accuracy`.

    An answer that ran out of budget is judged by its text so far; no answer is left out of N.

    - Input ``right``: ``[N]`` bool, one verdict per answer.
    - Output: a scalar in [0, 1].

    Raises:
        ValueError: On update, for anything but a vector.

    Example:
        >>> import torch
        >>> accuracy = AnswerAccuracy()
        >>> accuracy.update(torch.tensor([True, True, False, True]))
        >>> float(accuracy.compute())
        0.75
    """

    def update(self, right: Tensor) -> None:
        """Count verdicts.

        Args:
            right: ``[N]`` bool.

        Raises:
            ValueError: For anything but a vector.
        """
        self._add(*_sums(right))

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Compute the Wilson interval of the accuracy over all ranks; see :func:`wilson_interval`."""
        right, total = self.counts()
        return wilson_interval(int(right), int(total), confidence)
