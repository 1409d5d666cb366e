"""Objectives towards distributions instead of tokens: probabilities, or another prediction of the model."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from dmaxlit.errors import check_choice
from dmaxlit.noise.base import Prediction
from dmaxlit.noise.objectives import ScoredPositions

__all__ = ["DivergenceKind", "SoftTargets", "TeacherTargets", "divergences"]

DivergenceKind: TypeAlias = Literal["forward_kl", "reverse_kl", "jsd", "confident_forward", "confident_reverse"]

_LEAST = -1e4  # log-probability of an impossible token; its exponential is exactly 0


def divergences(logits: Tensor, log_target: Tensor, kind: str) -> Tensor:
    """Compute the divergence between each prediction p and its target q in nats, ``[n]``, with gradients of p alone.

    Args:
        logits: ``[n, V]`` logits of p, ``-inf`` for an impossible token.
        log_target: ``[n, V]`` log-probabilities of q, ``-inf`` where q is 0.
        kind: ``forward_kl``: KL(q || p), which covers the target. ``reverse_kl``: KL(p || q), which seeks its mode.
            ``jsd``: the mean of the KLs of p and q to (p + q) / 2, at most log 2. ``confident_forward``:
            ``w KL(q || p) + (1 - w) KL(p || q)`` with w the highest probability of q; ``confident_reverse``: the same
            with w and 1 - w exchanged.
    """
    log_p = logits.log_softmax(-1)
    log_p = log_p.masked_fill(log_p == -torch.inf, _LEAST)
    log_q = log_target.detach().clamp(min=_LEAST)
    p, q = log_p.exp(), log_q.exp()
    if kind == "jsd":
        log_mean = torch.logaddexp(log_p, log_q) - math.log(2)
        return 0.5 * (p * (log_p - log_mean) + q * (log_q - log_mean)).sum(-1)
    if kind == "forward_kl":
        return (q * (log_q - log_p)).sum(-1)
    if kind == "reverse_kl":
        return (p * (log_p - log_q)).sum(-1)
    check_choice("kind", kind, get_args(DivergenceKind))
    forward, reverse = (q * (log_q - log_p)).sum(-1), (p * (log_p - log_q)).sum(-1)
    confidence = q.max(-1).values
    share = confidence if kind == "confident_forward" else 1 - confidence
    return share * forward + (1 - share) * reverse


@dataclass(frozen=True, eq=False)
class TeacherTargets:
    """Divergence from what the model has predicted at each position, for instance with more of the text visible.

    Logits of the teacher are computed a chunk of positions at a time, as those of the view are.

    Args:
        states: ``[batch, length, width]`` states of the prediction (:attr:`Prediction.states`), scattered to their
            positions; any values at positions that are not supervised or of weight 0.
        head: Turns states into logits (:attr:`Prediction.head`).
        kind: As in :func:`divergences`.
        weights: ``[batch, length]`` weight of each position beside the view's; None for 1.
    """

    states: Tensor
    head: Callable[[Tensor], Tensor]
    kind: DivergenceKind = "forward_kl"
    weights: Tensor | None = None

    @classmethod
    def of(
        cls, prediction: Prediction, kind: DivergenceKind = "forward_kl", weights: Tensor | None = None
    ) -> "TeacherTargets":
        """Return the divergence from the prediction for another view.

        Args:
            prediction: The prediction.
            kind: As in :func:`divergences`.
            weights: As in the class; 0 where the other view is not supervised.
        """
        states = prediction.states
        blank = states.new_zeros(*prediction.positions.shape, states.shape[-1])
        return cls(prediction.scatter(states, into=blank), prediction.head, kind, weights)

    def __call__(self, at: ScoredPositions) -> Tensor:
        """Return the weighted divergences, summed."""
        with torch.no_grad():
            log_target = self.head(at.take(self.states)).float().log_softmax(-1)
        return _weighted(at, divergences(at.logits, log_target, self.kind), self.weights)


@dataclass(frozen=True, eq=False)
class SoftTargets:
    """Divergence from given distributions: whole ones, or the most probable tokens of each.

    Args:
        probabilities: ``[batch, length, K]``, each at least 0, with sum 1 at most; 0 for the mask token.
        ids: ``[batch, length, K]`` the tokens that they belong to, all different at a position. What is missing to 1 is
            spread evenly over the other tokens. None: the whole vocabulary, in order.
        kind: As in :func:`divergences`.
        weights: ``[batch, length]`` weight of each position beside the view's; None for 1.
    """

    probabilities: Tensor
    ids: Tensor | None = None
    kind: DivergenceKind = "forward_kl"
    weights: Tensor | None = None

    def __call__(self, at: ScoredPositions) -> Tensor:
        """Return the weighted divergences, summed."""
        target = at.take(self.probabilities).float()
        if self.ids is not None:
            possible = at.logits != -torch.inf
            rest = (1 - target.sum(-1, keepdim=True)).clamp(min=0)
            others = (possible.sum(-1, keepdim=True) - target.shape[-1]).clamp(min=1)
            target = (rest / others * possible).scatter(-1, at.take(self.ids), target)
        return _weighted(at, divergences(at.logits, target.log(), self.kind), self.weights)


def _weighted(at: ScoredPositions, values: Tensor, weights: Tensor | None) -> Tensor:
    weight = at.weight if weights is None else at.weight * at.take(weights)
    return (values * weight).sum()
