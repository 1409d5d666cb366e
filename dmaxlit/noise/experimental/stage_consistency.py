"""Consistency between stages of a decoding trajectory, after the published outline of Consistency Forcing (CForce)."""

from typing import Any, get_args

import torch
from torch import Tensor

from dmaxlit.errors import UserError, check_at_least, check_choice
from dmaxlit.noise.base import NOISE, Level, NoiseStrategy, View, Views
from dmaxlit.noise.objectives import SampledTargets
from dmaxlit.noise.rollout import check_weights
from dmaxlit.noise.soft_targets import DivergenceKind, TeacherTargets
from dmaxlit.noise.trajectory import Trajectory, check_replay, replay
from dmaxlit.randomness import RowGenerator
from dmaxlit.tokens import CleanBatch

__all__ = ["StageConsistencyNoise"]


@NOISE.register("stage_consistency")
class StageConsistencyNoise(NoiseStrategy):
    """Predict at one stage of a decoding trajectory what is decided, and what is predicted, at a later stage.

    A reading of CForce (arXiv 2608.13925), of which neither the weights nor the formula of the divergence were at
    hand. Threshold decoding is replayed on the text, as for ``tsd``. Stage j of a block with n masks is the first
    state with at least ``j n / stages`` of them revealed. With stage j drawn uniformly and ``k = j + gap``,
    ``loss = masked_weight * sum over l masked at k of D(p(. | x_k)_l, p(. | x_j)_l)``, the first without gradients,
    ``+ revealed_weight * sum over l revealed between j and k of -log p(x_0[l] | x_j)``.

    A step costs ``steps + 1`` forwards without gradients and one view.

    Args:
        level: Noise level t in [0, 1] at which trajectories begin: a number, a [low, high] range, or a
            LevelDistribution. 1: with a whole block of masks, as decoding does.
        threshold: Confidence above which a position is decided, in [0, 1].
        steps: Most forwards of a trajectory, at least 1: the last one decides all that is left. Default: as many as a
            block has tokens, which is exact.
        stages: Number of stages of a block, at least 1. The last one is followed by the whole text.
        gap: Stages between the two states when training begins, 1 to ``stages``.
        gap_steps: Optimiser steps after which the gap grows by one, at least 1, again and again up to ``stages``.
            None: it stays.
        divergence: D. With w the confidence of the later prediction q, and p the earlier one, ``confident_forward`` is
            ``w KL(q || p) + (1 - w) KL(p || q)``, and ``confident_reverse`` has w and 1 - w exchanged: which of the
            two is meant was not at hand. Or ``forward_kl``: KL(q || p), ``reverse_kl``: KL(p || q), or ``jsd``.
        masked_weight: Weight of the divergence, at least 0.
        revealed_weight: Weight of the cross-entropy, at least 0.
    """

    def __init__(
        self,
        level: Level = 1.0,
        *,
        threshold: float = 0.95,
        steps: int | None = None,
        stages: int = 4,
        gap: int = 1,
        gap_steps: int | None = None,
        divergence: DivergenceKind = "confident_forward",
        masked_weight: float = 1.0,
        revealed_weight: float = 1.0,
        **corruption: Any,
    ) -> None:
        super().__init__(level, **corruption)
        check_replay(threshold, steps)
        check_at_least(1, stages=stages, gap=gap, gap_steps=gap_steps)
        if gap > stages:
            raise UserError(f"gap: expected at most stages, {stages}, got {gap}")
        check_choice("divergence", divergence, get_args(DivergenceKind))
        check_weights(masked_weight=masked_weight, revealed_weight=revealed_weight)
        self.threshold = threshold
        self.steps = steps
        self.stages = stages
        self.gap = gap
        self.gap_steps = gap_steps
        self.divergence = divergence
        self.masked_weight = masked_weight
        self.revealed_weight = revealed_weight

    def gap_at(self, step: int) -> int:
        """Return the number of stages between the two states.

        Args:
            step: Optimiser step.
        """
        grown = 0 if self.gap_steps is None else step // self.gap_steps
        return min(self.gap + grown, self.stages)

    def views(self, clean: CleanBatch, generator: RowGenerator) -> Views:
        """Yield the states of the trajectory, the later one of two stages, and the earlier one, which is trained."""
        corruption = self.corrupt(clean, generator)
        trajectory = yield from replay(clean, corruption, self.threshold, self.steps)
        gap = self.gap_at(clean.step)
        stage = (generator.rand(trajectory.forwards.shape[1]) * (self.stages - gap + 1)).long()
        early = trajectory.masked(self._forward(trajectory, stage))
        late = trajectory.masked(self._forward(trajectory, stage + gap))

        level = corruption.level
        prediction = yield View(clean.with_masks(late), late, "later", 0.0, is_masked=late, level=level)
        teacher = TeacherTargets.of(prediction, self.divergence, late.float() * self.masked_weight)
        del prediction  # or its logits would be kept while the next view is predicted
        revealed_weights = (early & ~late).float() * self.revealed_weight
        revealed = SampledTargets(clean.ids.unsqueeze(-1), revealed_weights.unsqueeze(-1))
        yield View(
            clean.with_masks(early),
            early,
            "earlier",
            is_masked=early,
            level=level,
            objectives=(teacher, revealed),
            figures=trajectory.figures,
        )

    def _forward(self, trajectory: Trajectory, stage: Tensor) -> Tensor:
        """Return the forwards made in each block at the beginning of a stage, ``[batch, blocks]``."""
        # Forwards in the order of the block's decisions; first come -1 for what was never masked.
        decided = trajectory.decided.view(*stage.shape, trajectory.block_length)
        order, count = decided.sort(-1).values, (decided >= 0).sum(-1)
        needed = (stage * count + self.stages - 1) // self.stages  # tokens revealed, rounded up
        last = trajectory.block_length - count + needed - 1
        return torch.where(needed > 0, order.gather(-1, last.clamp(min=0).unsqueeze(-1)).squeeze(-1) + 1, 0)
