"""The order in which tokens took their final values, and how many at a time (Zhong et al., arXiv 2601.15593)."""

import math
from typing import Literal

import torch
from torch import Tensor

from dmaxlit.errors import check_choice
from dmaxlit.metrics.base import RatioMetric, check_same_length

__all__ = ["DecodingOrder", "FinalizationParallelism", "finalization_parallelism", "kendall_tau"]

_VARIANTS = ("b", "a")
_PAIRS_AT_ONCE = 2**22  # of long answers, whose pairs would not fit the memory together


def finalization_parallelism(finalized: Tensor) -> float:
    """Compute AFP: tokens over the number of distinct forwards at which at least one of them became final.

    Forwards that finalise nothing do not count, so AFP is at least TPF. Without tokens it is nan.

    Args:
        finalized: ``[n]`` forward at which each token took its final value.

    Example:
        >>> import torch
        >>> finalization_parallelism(torch.tensor([1, 1, 4, 4, 4, 5]))
        2.0
    """
    return len(finalized) / len(torch.unique(finalized)) if len(finalized) else math.nan


def kendall_tau(finalized: Tensor, variant: Literal["b", "a"] = "b", against: Tensor | None = None) -> float:
    """Compute Kendall's tau between the position of tokens and the forward that finalised them.

    1: strictly from left to right; 0: order and position unrelated; -1: from right to left. Tokens that became final
    together are ties: ``b`` corrects for them, ``(C - D) / sqrt((P - T_x)(P - T_f))``; ``a`` counts them as neither,
    ``(C - D) / P``. It is undefined (nan) for fewer than two tokens, and for ``b`` if all became final together.

    Args:
        finalized: ``[n]`` forward at which each token, in order of position, took its final value.
        variant: ``b`` or ``a``.
        against: ``[n]`` another property of each token, instead of its position. Ties in it count like those in
            ``finalized``.

    Raises:
        UserError: For another variant.
        ValueError: For anything but vectors of the same length.

    Example:
        >>> import torch
        >>> kendall_tau(torch.tensor([1, 2, 3, 4])), kendall_tau(torch.tensor([2, 1]))
        (1.0, -1.0)
        >>> kendall_tau(torch.tensor([3, 1, 2]), against=torch.tensor([9, 7, 8]))
        1.0
    """
    check_choice("variant", variant, _VARIANTS)
    check_same_length(finalized=finalized, against=finalized if against is None else against)
    n = len(finalized)
    pairs = n * (n - 1) // 2
    if pairs == 0:
        return math.nan
    surplus = untied = untied_others = 0
    rows = max(_PAIRS_AT_ONCE // n, 1)
    for first in range(0, n, rows):
        signs = _pair_signs(finalized[first:], rows)
        others = torch.ones_like(signs).triu(1) if against is None else _pair_signs(against[first:], rows)
        surplus += int((signs * others).sum())
        untied += int(signs.abs().sum())
        untied_others += int(others.abs().sum())
    if variant == "a":
        return surplus / pairs
    return surplus / math.sqrt(untied * untied_others) if untied * untied_others else math.nan


def _pair_signs(values: Tensor, rows: int) -> Tensor:
    """Return for each pair i < j of the first rows the sign of ``values[j] - values[i]``, and 0 elsewhere."""
    return (values.unsqueeze(0) - values[:rows].unsqueeze(1)).sign().triu(1)


class FinalizationParallelism(RatioMetric):
    """Mean AFP of answers; see :func:`finalization_parallelism`.

    - Input: ``[n]`` forward at which each token of one answer became final.
    - Output: a scalar; answers without tokens do not count.

    Example:
        >>> import torch
        >>> afp = FinalizationParallelism()
        >>> afp.update(torch.tensor([1, 1, 4, 4, 4, 5]))
        >>> afp.update(torch.tensor([1, 1, 1, 1]))
        >>> float(afp.compute())  # (2 + 4) / 2
        3.0
    """

    def update(self, finalized: Tensor) -> None:
        """Count an answer.

        Args:
            finalized: ``[n]``, see :meth:`dmaxlit.engine.RowTrace.finalized`.
        """
        if len(finalized):
            self._add(torch.tensor(finalization_parallelism(finalized), dtype=torch.float64), torch.tensor(1))


class DecodingOrder(RatioMetric):
    """Mean Kendall's tau of answers; see :func:`kendall_tau`.

    - Input: ``[n]`` forward at which each token of one answer became final; for ``within_block`` also its block.
    - Output: a scalar. Answers, or blocks, whose tau is undefined do not count.

    Args:
        variant: ``b`` or ``a``.
        within_block: Of each answer, take the mean tau of its blocks. Over a whole answer tau is near 1 for any decoder
            that works block by block.
        **kwargs: Options of :class:`torchmetrics.Metric`.

    Raises:
        UserError: For another variant.

    Example:
        >>> import torch
        >>> order = DecodingOrder(within_block=True)
        >>> order.update(torch.tensor([2, 1, 3, 4]), torch.tensor([0, 0, 1, 1]))
        >>> float(order.compute())  # (-1 + 1) / 2
        0.0
    """

    higher_is_better = None

    def __init__(self, variant: Literal["b", "a"] = "b", within_block: bool = False, **kwargs: object) -> None:
        super().__init__(**kwargs)
        check_choice("variant", variant, _VARIANTS)
        self.variant: Literal["b", "a"] = variant
        self.within_block = within_block

    def update(self, finalized: Tensor, block: Tensor) -> None:
        """Count an answer.

        Args:
            finalized: ``[n]``, see :meth:`dmaxlit.engine.RowTrace.finalized`.
            block: ``[n]`` number of the block of each token.

        Raises:
            ValueError: For vectors of different length.
        """
        check_same_length(finalized=finalized, block=block)
        groups = [finalized[block == number] for number in torch.unique(block)] if self.within_block else [finalized]
        taus = [tau for tau in (kendall_tau(group, self.variant) for group in groups) if not math.isnan(tau)]
        if taus:
            self._add(torch.tensor(sum(taus) / len(taus), dtype=torch.float64), torch.tensor(1))
