"""Complementary mask pairs (LLaDA2.0, arXiv 2512.15745)."""

from dmaxlit.noise.base import NOISE, NoiseStrategy, View, Views
from dmaxlit.randomness import RowGenerator
from dmaxlit.tokens import CleanBatch

__all__ = ["ComplementaryNoise"]


@NOISE.register("complementary")
class ComplementaryNoise(NoiseStrategy):
    """Masked diffusion on a mask and its inverse: every response token is predicted from masks exactly once.

    ``m ~ Bernoulli(1 - alpha_t)`` and ``m' = not m`` are two views of the same sample, each with the cross-entropy to
    ``x_0`` at its masked positions: ``loss = sum over i of -log p(x_0[i] | the view in which i is masked)``. No token
    of a batch goes unused, and the loss has the same number of terms whatever t. LLaDA2.0 draws t from a band in the
    middle: nearly empty masks teach little, and their inverses leave almost nothing visible.
    """

    exact_level = False  # the inverse of an empty mask is full

    def views(self, clean: CleanBatch, generator: RowGenerator) -> Views:
        """Yield the view of the mask, then that of its inverse."""
        corruption = self.corrupt(clean, generator)
        masked, level = corruption.positions, corruption.level
        yield View(clean.with_masks(masked), masked, "masked", is_masked=masked, level=level)
        inverse = clean.response & ~masked
        # For linear alpha_t the inverse is a mask at level 1 - t; for others t is replaced by its masking probability.
        opposite = 1 - self.schedule.noise_rate(level)
        yield View(clean.with_masks(inverse), inverse, "complement", is_masked=inverse, level=opposite)
