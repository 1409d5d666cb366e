"""How often decoding ends as it should: rates of finished answers and of blocks cut short."""

import torch
from torch import Tensor

from dmaxlit.metrics.base import RatioMetric, same_length

__all__ = ["CappedRate", "FinishedRate"]


class FinishedRate(RatioMetric):
    """Share of answers that end in EOS rather than at the end of their budget, ``finished / N``.

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
        """Count some answers.

        Args:
            finished: ``[N]`` bool, whether EOS was generated.

        Raises:
            ValueError: For anything but a vector.
        """
        same_length(finished=finished)
        self._add(finished.sum(), torch.tensor(len(finished)))


class CappedRate(RatioMetric):
    """Share of blocks that hit their decoder's step cap before they converged, ``hit_step_limit / blocks``.

    Only blocks of the answers count, see :func:`~dmaxlit.metrics.ceiling.answer_blocks`.

    - Input ``hit_step_limit``, ``blocks``: ``[N]`` counts of each answer.
    - Output: a scalar in [0, 1].

    Raises:
        ValueError: On update, for vectors of different length.

    Example:
        >>> import torch
        >>> rate = CappedRate()
        >>> rate.update(hit_step_limit=torch.tensor([1, 0]), blocks=torch.tensor([3, 2]))
        >>> float(rate.compute())
        0.2
    """

    higher_is_better = False

    def update(self, hit_step_limit: Tensor, blocks: Tensor) -> None:
        """Count some answers.

        Args:
            hit_step_limit: ``[N]`` blocks of each answer that hit the cap.
            blocks: ``[N]`` blocks of each answer.

        Raises:
            ValueError: For vectors of different length.
        """
        same_length(hit_step_limit=hit_step_limit, blocks=blocks)
        self._add(hit_step_limit.sum(), blocks.sum())
