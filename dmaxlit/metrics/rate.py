"""Rates of finished answers and of blocks that reached the step limit."""

import torch
from torch import Tensor

from dmaxlit.metrics.base import RatioMetric, check_same_length, quotient

__all__ = ["FinishedRate", "StepLimitRate", "finished_rate", "step_limit_rate"]


def finished_rate(finished: Tensor) -> Tensor:
    """Compute the fraction of answers that end with EOS or a stop text, ``finished / N``.

    Args:
        finished: ``[N]`` bool, whether EOS or a stop text was generated.

    Returns:
        A float64 scalar; nan for no answers.

    Raises:
        ValueError: For anything but a vector.

    Example:
        >>> import torch
        >>> float(finished_rate(torch.tensor([True, False])))
        0.5
    """
    return quotient(*_finished_sums(finished))


def _finished_sums(finished: Tensor) -> tuple[Tensor, Tensor]:
    check_same_length(finished=finished)
    return finished.sum(), torch.tensor(len(finished))


def step_limit_rate(hit_step_limit: Tensor, blocks: Tensor) -> Tensor:
    """Compute the fraction of blocks that reached the step limit, ``sum hit_step_limit / sum blocks``.

    Args:
        hit_step_limit: ``[N]`` blocks of each answer that reached the limit.
        blocks: ``[N]`` blocks of each answer.

    Returns:
        A float64 scalar; nan for no blocks.

    Raises:
        ValueError: For vectors of different length.

    Example:
        >>> import torch
        >>> float(step_limit_rate(hit_step_limit=torch.tensor([1, 0]), blocks=torch.tensor([3, 2])))
        0.2
    """
    return quotient(*_capped_sums(hit_step_limit, blocks))


def _capped_sums(hit_step_limit: Tensor, blocks: Tensor) -> tuple[Tensor, Tensor]:
    check_same_length(hit_step_limit=hit_step_limit, blocks=blocks)
    return hit_step_limit.sum(), blocks.sum()


class FinishedRate(RatioMetric):
    """Fraction of answers that end with EOS or a stop text, and not with their budget; see :func:`finished_rate`.

    - Input ``finished``: ``[N]`` bool.
    - Output: a scalar in [0, 1].

    Raises:
        ValueError: On update, for anything but a vector.

    Example:
        >>> import torch
        >>> rate = FinishedRate()
        >>> rate.update(torch.tensor([True, False]))
        >>> float(rate.compute())
        0.5
    """

    def update(self, finished: Tensor) -> None:
        """Count answers.

        Args:
            finished: ``[N]`` bool, whether EOS or a stop text was generated.

        Raises:
            ValueError: For anything but a vector.
        """
        self._add(*_finished_sums(finished))


class StepLimitRate(RatioMetric):
    """Fraction of blocks that reached their decoder's step limit before they converged; see :func:`step_limit_rate`.

    Only blocks of the answers count, see :func:`~dmaxlit.metrics.ceiling.answer_blocks`.

    - Input ``hit_step_limit``, ``blocks``: ``[N]`` counts of each answer.
    - Output: a scalar in [0, 1].

    Raises:
        ValueError: On update, for vectors of different length.

    Example:
        >>> import torch
        >>> rate = StepLimitRate()
        >>> rate.update(hit_step_limit=torch.tensor([1, 0]), blocks=torch.tensor([3, 2]))
        >>> float(rate.compute())
        0.2
    """

    higher_is_better = False

    def update(self, hit_step_limit: Tensor, blocks: Tensor) -> None:
        """Count answers.

        Args:
            hit_step_limit: ``[N]`` blocks of each answer that reached the limit.
            blocks: ``[N]`` blocks of each answer.

        Raises:
            ValueError: For vectors of different length.
        """
        self._add(*_capped_sums(hit_step_limit, blocks))
