"""Confidence-aware parallel training, CAP (LLaDA2.0, arXiv 2512.15745; "dParallel-SFT" in DMax)."""

from typing import Any

from dmaxlit.errors import UserError
from dmaxlit.noise.base import NOISE, Level, NoiseStrategy, View, Views
from dmaxlit.noise.objectives import ConfidentEntropy, Objective, cross_entropy
from dmaxlit.randomness import RowGenerator
from dmaxlit.tokens import CleanBatch

__all__ = ["ConfidenceNoise"]


@NOISE.register("confidence")
class ConfidenceNoise(NoiseStrategy):
    """CAP: masked diffusion, with an entropy penalty where the prediction is already correct.

    ``loss = sum over masked i of -log p_i(x_0[i]) + lambda * sum over masked i with argmax p_i = x_0[i] of H(p_i)``.
    Wrong predictions are not sharpened, so that a threshold passes more tokens at once but not more errors. The paper
    takes means over either set; here both sums are divided by the response tokens of the global batch, like every
    loss, so that neither ranks nor accumulation change the gradient.

    Args:
        level: Noise level t in [0, 1]: a number, a [low, high] range, or a LevelDistribution.
        entropy_weight: lambda, at least 0. The paper's value was not at hand.
    """

    def __init__(self, level: Level = (0.0, 1.0), *, entropy_weight: float = 1.0, **corruption: Any) -> None:
        super().__init__(level, **corruption)
        if not entropy_weight >= 0:
            raise UserError(f"entropy_weight: expected a number >= 0, got {entropy_weight}")
        self.entropy_weight = entropy_weight

    def views(self, clean: CleanBatch, generator: RowGenerator) -> Views:
        """Yield the masked view."""
        corruption = self.corrupt(clean, generator)
        objectives: tuple[Objective, ...] = (cross_entropy,)
        if self.entropy_weight:
            objectives = (cross_entropy, ConfidentEntropy(self.entropy_weight))
        yield View(
            clean.with_masks(corruption.positions),
            corruption.positions,
            "masked",
            is_masked=corruption.positions,
            level=corruption.level,
            objectives=objectives,
        )
