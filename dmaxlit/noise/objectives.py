"""Objectives of a view: what is minimised over its supervised positions, of which some at a time are in memory."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["ConfidentEntropy", "Objective", "SampledTargets", "ScoredPositions", "cross_entropy", "entropies"]


@dataclass(frozen=True)
class ScoredPositions:
    """Supervised positions of a view with their logits: the argument of an objective.

    Args:
        logits: ``[n, V]`` float32 with gradients; ``-inf`` for the mask token, and for ids beyond the tokenizer's where
            the model's table is longer.
        target: ``[n]`` clean tokens ``x_0``.
        weight: ``[n]`` the view's weight; 0 in the fill.
        in_loss: ``[n]`` bool, False in the fill, which an objective must leave out.
        is_masked: ``[n]`` bool, positions that hold the mask token.
        index: ``[n]`` index of each position in the flattened batch.
    """

    logits: Tensor
    target: Tensor
    weight: Tensor
    in_loss: Tensor
    is_masked: Tensor
    index: Tensor

    @cached_property
    def cross_entropy(self) -> Tensor:
        """``[n]`` cross-entropy to ``x_0`` in nats, with gradients."""
        return F.cross_entropy(self.logits, self.target, reduction="none")

    @cached_property
    def hit(self) -> Tensor:
        """``[n]`` bool, whether the most probable token is the clean one."""
        return self.logits.detach().argmax(-1) == self.target

    def take(self, values: Tensor) -> Tensor:
        """Return the entries of these positions, ``[n, ...]``, of a tensor ``[batch, length, ...]``."""
        return values.flatten(0, 1)[self.index]


#: Returns the sum of a loss over some positions, a scalar with gradients. It is called for a chunk of positions at a
#: time; a chunk may be empty, and its sum is then 0. Its own data are tensors ``[batch, length, ...]`` without
#: gradients, best as fields of a dataclass.
Objective: TypeAlias = Callable[[ScoredPositions], Tensor]


def cross_entropy(at: ScoredPositions) -> Tensor:
    """Return the weighted cross-entropy to ``x_0``, summed: the objective of a view that names none.

    Args:
        at: The positions.
    """
    return (at.cross_entropy * at.weight).sum()


@dataclass(frozen=True)
class ConfidentEntropy:
    """Entropy, in nats, of each masked position whose top-1 prediction is the clean token.

    The confidence term of CAP (LLaDA2.0, arXiv 2512.15745), which sharpens correct predictions.

    Args:
        weight: Weight of the sum.
    """

    weight: float

    def __call__(self, at: ScoredPositions) -> Tensor:
        """Return the weighted entropies, summed."""
        sharpened = at.is_masked & at.in_loss & at.hit
        return self.weight * (entropies(at.logits[sharpened]) * at.weight[sharpened]).sum()


@dataclass(frozen=True, eq=False)
class SampledTargets:
    """Cross-entropy to K tokens at each position, each with a weight of its own, which may be negative.

    ``sum over i, k of w_v(i) * w[i, k] * -log p_i(x[i, k])``: with advantages as weights this is REINFORCE.

    Args:
        ids: ``[batch, length, K]`` tokens; not the mask token.
        weights: ``[batch, length, K]`` their weights.
    """

    ids: Tensor
    weights: Tensor

    def __call__(self, at: ScoredPositions) -> Tensor:
        """Return the weighted negative log-probabilities, summed."""
        log_probs = at.logits.gather(-1, at.take(self.ids)) - at.logits.logsumexp(-1, keepdim=True)
        return -(at.take(self.weights) * log_probs * at.weight[:, None]).sum()


def entropies(logits: Tensor) -> Tensor:
    """Compute the entropy of each distribution in nats, ``[n]``, with gradients.

    ``entropy`` of :mod:`dmaxlit.decoding.proposal` rounds differently, and would change the trained weights.

    Args:
        logits: ``[n, V]``; ``-inf`` where a token is impossible.
    """
    possible = logits.masked_fill(logits == -torch.inf, 0.0)  # 0 * -inf otherwise
    return logits.logsumexp(-1) - (logits.softmax(-1) * possible).sum(-1)
