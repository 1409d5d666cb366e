"""AFP and Kendall's tau of answers: all of them, right or wrong ones, whole or by thirds."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmaxlit.evaluation.bootstrap import Estimate, bootstrap_mean
from dmaxlit.metrics import finalization_parallelism, kendall_tau

#: Parts of an answer: the whole, and its thirds.
PARTS = ("whole", "first third", "middle third", "last third")
#: Answers that a row is over.
VERDICTS = ("all", "right", "wrong")


@dataclass(frozen=True)
class AnswerOrder:
    """The order in which the tokens of one answer took their final values.

    Args:
        finalized: ``[n]`` forward, from 1, at which each token became final, see
            :meth:`~dmaxlit.engine.RowTrace.finalized`.
        block: ``[n]`` number of the block of each token.
        right: The checker's verdict; None if the answer was not judged.
        prompt: Text of the prompt.
        text: Text of the answer.
        token_ids: The answer's tokens.
    """

    finalized: Tensor
    block: Tensor
    right: bool | None
    prompt: str = ""
    text: str = ""
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class OrderRow:
    """The figures of a group of answers.

    Args:
        part: Part of the answers, of :data:`PARTS`.
        verdict: Which answers, of :data:`VERDICTS`.
        answers: Number of answers.
        figures: Estimate of each of :data:`FIGURES`. Each is over the answers for which it is defined.
    """

    part: str
    verdict: str
    answers: int
    figures: dict[str, Estimate]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        figures = {name: estimate.to_dict() for name, estimate in self.figures.items()}
        return {"part": self.part, "verdict": self.verdict, "answers": self.answers, **figures}


def _tau_in_block(finalized: Tensor, block: Tensor) -> float:
    taus = [kendall_tau(finalized[block == number]) for number in torch.unique(block)]
    defined = [tau for tau in taus if not math.isnan(tau)]
    return sum(defined) / len(defined) if defined else math.nan


#: Name and function of each figure of an answer, or part of one: of its finalising forwards and blocks.
FIGURES: dict[str, Callable[[Tensor, Tensor], float]] = {
    "afp": lambda finalized, _: finalization_parallelism(finalized),
    "tau": lambda finalized, _: kendall_tau(finalized),
    "tau_a": lambda finalized, _: kendall_tau(finalized, "a"),
    "tau_in_block": _tau_in_block,
}


def third_of(n: int) -> Tensor:
    """Return the third of each of n tokens: 0, 1 or 2, of lengths that differ by one at most, ``[n]``."""
    return 3 * torch.arange(n) // max(n, 1)


def order_rows(orders: Sequence[AnswerOrder], resamples: int = 1000, seed: int = 0) -> list[OrderRow]:
    """Return the figures of the answers, right ones and wrong ones, whole and by thirds.

    A figure is the mean over answers; the interval is 95%, by the bootstrap over the prompts of the group. Without
    verdicts there are no rows of right and wrong answers.

    Args:
        orders: The answers.
        resamples: Number of bootstrap samples.
        seed: Their seed.
    """
    judged = any(order.right is not None for order in orders)
    groups = {
        "all": list(range(len(orders))),
        "right": [index for index, order in enumerate(orders) if order.right is True],
        "wrong": [index for index, order in enumerate(orders) if order.right is False],
    }
    rows = []
    for number, part in enumerate(PARTS):
        values = {name: np.array([_figure(name, order, number) for order in orders]) for name in FIGURES}
        for verdict in VERDICTS if judged else VERDICTS[:1]:
            members = groups[verdict]
            figures = {name: bootstrap_mean(column[members], resamples, seed) for name, column in values.items()}
            rows.append(OrderRow(part, verdict, len(members), figures))
    return rows


def _figure(name: str, order: AnswerOrder, part: int) -> float:
    """Return a figure of an answer, or of one third of it."""
    finalized, block = order.finalized, order.block
    if part > 0:
        inside = third_of(len(finalized)) == part - 1
        finalized, block = finalized[inside], block[inside]
    return FIGURES[name](finalized, block)
