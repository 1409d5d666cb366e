"""On-policy uniform training, OPUT (DMax, arXiv 2604.08302, Section 3.1)."""

from typing import Any, Literal

import torch
from torch import Tensor

from dmaxlit.errors import UserError
from dmaxlit.noise.base import NOISE, Level, NoiseStrategy, Prediction, View, Views
from dmaxlit.noise.rollout import check_rollout, check_weights, draw
from dmaxlit.randomness import RowGenerator
from dmaxlit.tokens import CleanBatch

__all__ = ["OnPolicyNoise"]


@NOISE.register("on_policy")
class OnPolicyNoise(NoiseStrategy):
    """OPUT: a masked view, and a view with the model's own predictions at the masked positions of the same sample.

    ``x_t^(p)[i] ~ p(. | x_t^(m))`` where masked; ``loss = L(x_t^(m)) + L(x_t^(p))``, cross-entropy to ``x_0`` over all
    response positions of both views. The masked view's forward is the rollout, which costs none of its own. It is
    trained, and so sees the dropout of a model that has any; the published code rolls out in eval mode.

    Args:
        level: Noise level t in [0, 1]: a number, a [low, high] range, or a LevelDistribution. DMax uses 0.75.
        temperature: Temperature of the rollout, above 0. 1 samples from the model, as in the paper.
        rollout: ``sample``, or ``argmax`` as in the published code.
        masked_weight: Weight of the masked view's loss, at least 0.
        predicted_weight: Weight of the predicted view's loss, at least 0.
        alternate: Train on the masked view at even optimiser steps and on the predicted view at odd ones, instead of
            on both at every step. Both weights have to be above 0 then, and ``log_every_n_steps`` odd, for an even one
            logs the predicted view alone. (The published code also trains on one view of a row at a time, but mixes
            both in every update, and each row comes as both in every epoch.)
    """

    def __init__(
        self,
        level: Level = 0.75,
        *,
        temperature: float = 1.0,
        rollout: Literal["sample", "argmax"] = "sample",
        masked_weight: float = 1.0,
        predicted_weight: float = 1.0,
        alternate: bool = False,
        **corruption: Any,
    ) -> None:
        super().__init__(level, **corruption)
        check_rollout(rollout, temperature)
        check_weights(masked_weight=masked_weight, predicted_weight=predicted_weight)
        if alternate and not (masked_weight > 0 and predicted_weight > 0):
            raise UserError(
                "masked_weight, predicted_weight: expected numbers > 0 with alternate, which trains on one view "
                f"a step, got {masked_weight} and {predicted_weight}"
            )
        self.temperature = temperature
        self.rollout = rollout
        self.masked_weight = masked_weight
        self.predicted_weight = predicted_weight
        self.alternate = alternate

    def views(self, clean: CleanBatch, generator: RowGenerator) -> Views:
        """Yield the masked view, then the same sample with tokens drawn from the prediction in place of the masks."""
        masked_weight, predicted_weight = self.masked_weight, self.predicted_weight
        if self.alternate and clean.step % 2 == 0:
            predicted_weight = 0.0
        elif self.alternate:
            masked_weight = 0.0
        corruption = self.corrupt(clean, generator)
        masked, level = corruption.positions, corruption.level
        ids = clean.with_masks(masked)
        prediction = yield View(ids, clean.response, "masked", masked_weight, is_masked=masked, level=level)
        if predicted_weight == 0:
            return
        tokens = prediction.scatter(self.draw(prediction, generator), into=clean.ids)
        del prediction  # or its logits would be kept while the next view is predicted
        ids = torch.where(masked, tokens, clean.ids)
        yield View(ids, clean.response, "predicted", predicted_weight, model_filled=masked, level=level)

    def draw(self, prediction: Prediction, generator: RowGenerator) -> Tensor:
        """Draw one token for each predicted position, ``[n]``, without gradients."""
        return draw(prediction, generator, self.rollout, self.temperature)
