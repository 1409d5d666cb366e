"""Confidence-aware parallel training, CAP (LLaDA2.0, arXiv 2512.15745; "dParallel-SFT" in DMax)."""

from typing import Literal

from dmaxlit.errors import UserError
from dmaxlit.noise.base import NOISE, Level, NoiseStrategy, View, Views
from dmaxlit.noise.schedules import AlphaSchedule
from dmaxlit.randomness import RowGenerator
from dmaxlit.tokens import CleanBatch

__all__ = ["ConfidenceNoise"]


@NOISE.register("confidence")
class ConfidenceNoise(NoiseStrategy):
    """CAP: masked diffusion, and lower entropy where the prediction is right already.

    ``loss = sum over masked i of -log p_i(x_0[i]) + lambda * sum over masked i with argmax p_i = x_0[i] of H(p_i)``.
    Wrong predictions are not sharpened, so that a threshold passes more tokens at once and not more errors. The paper
    takes means over either set; here both sums are divided by the response tokens of the global batch, as every loss
    is, so that neither ranks nor accumulation change the gradient.

    Args:
        level: Noise level t in [0, 1]: a number, a [low, high] range, or a LevelDistribution.
        per: Draw one level for each sequence or for each block.
        stratified: Spread the levels evenly over the global batch, for a lower variance of the loss.
        schedule: Turns a level into a masking probability ``1 - alpha_t``; linear by default.
        entropy_weight: lambda, at least 0. The paper's value is not published.
    """

    def __init__(
        self,
        level: Level = (0.0, 1.0),
        per: Literal["sequence", "block"] = "sequence",
        stratified: bool = False,
        schedule: AlphaSchedule | None = None,
        entropy_weight: float = 1.0,
    ) -> None:
        super().__init__(level, per, stratified, schedule)
        if entropy_weight < 0:
            raise UserError(f"entropy_weight: expected a number >= 0, got {entropy_weight}")
        self.entropy_weight = entropy_weight

    def views(self, clean: CleanBatch, generator: RowGenerator) -> Views:
        """Yield the masked view."""
        corruption = self.corrupt(clean, generator)
        yield View(
            self.masked_ids(clean, corruption),
            corruption.positions,
            "masked",
            is_masked=corruption.positions,
            level=corruption.level,
            entropy_weight=self.entropy_weight,
        )
