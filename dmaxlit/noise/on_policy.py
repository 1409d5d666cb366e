"""On-policy uniform training, OPUT (DMax, arXiv 2604.08302, Section 3.1)."""

from typing import Literal

import torch
from torch import Tensor

from dmaxlit.noise.base import NOISE, Level, NoiseStrategy, Prediction, View, Views
from dmaxlit.noise.rollout import check_rollout, check_weights, draw
from dmaxlit.noise.schedules import AlphaSchedule
from dmaxlit.randomness import RowGenerator
from dmaxlit.tokens import CleanBatch

__all__ = ["OnPolicyNoise"]


@NOISE.register("on_policy")
class OnPolicyNoise(NoiseStrategy):
    """OPUT: a masked view, and a view with the model's own guesses at the masked positions of the same sample.

    ``x_t^(p)[i] ~ p(. | x_t^(m))`` where masked; ``loss = L(x_t^(m)) + L(x_t^(p))``, cross-entropy to ``x_0`` over all
    response positions of both views. The masked forward is the rollout, so the method costs two passes, not three.

    Args:
        level: Noise level t in [0, 1]: a number, a [low, high] range, or a LevelDistribution. DMax uses 0.75.
        per: Draw one level for each sequence or for each block.
        stratified: Spread the levels evenly over the global batch.
        schedule: Turns a level into a masking probability ``1 - alpha_t``; linear by default.
        temperature: Of the rollout, above 0. 1 samples from the model, as the paper says.
        rollout: ``sample``, or ``argmax`` as the published code does.
        masked_weight: Weight of the masked view's loss, at least 0.
        predicted_weight: Weight of the predicted view's loss, at least 0.
        alternate: Train on the masked view at even optimiser steps and on the predicted view at odd ones, as the
            published code does with its two copies of each sample, instead of on both at each step.
    """

    def __init__(
        self,
        level: Level = 0.75,
        per: Literal["sequence", "block"] = "sequence",
        stratified: bool = False,
        schedule: AlphaSchedule | None = None,
        temperature: float = 1.0,
        rollout: Literal["sample", "argmax"] = "sample",
        masked_weight: float = 1.0,
        predicted_weight: float = 1.0,
        alternate: bool = False,
    ) -> None:
        super().__init__(level, per, stratified, schedule)
        check_rollout(rollout, temperature)
        check_weights(masked_weight=masked_weight, predicted_weight=predicted_weight)
        self.temperature = temperature
        self.rollout = rollout
        self.masked_weight = masked_weight
        self.predicted_weight = predicted_weight
        self.alternate = alternate

    def views(self, clean: CleanBatch, generator: RowGenerator) -> Views:
        """Yield the masked view, then the view in which its masks hold tokens drawn from the model's answer."""
        masked_weight, predicted_weight = self.masked_weight, self.predicted_weight
        if self.alternate and clean.step % 2 == 0:
            predicted_weight = 0.0
        elif self.alternate:
            masked_weight = 0.0
        corruption = self.corrupt(clean, generator)
        prediction = yield View(
            self.masked_ids(clean, corruption),
            clean.response,
            "masked",
            masked_weight,
            is_masked=corruption.positions,
            level=corruption.level,
        )
        if predicted_weight == 0:
            return
        guess = prediction.scatter(self.draw(prediction, generator), into=clean.ids)
        predicted = torch.where(corruption.positions, guess, clean.ids)
        yield View(
            predicted,
            clean.response,
            "predicted",
            predicted_weight,
            model_filled=corruption.positions,
            level=corruption.level,
        )

    def draw(self, prediction: Prediction, generator: RowGenerator) -> Tensor:
        """One token for each predicted position, ``[n]``, without gradients."""
        return draw(prediction, generator, self.rollout, self.temperature)
