"""The conventional uniform-diffusion baseline that DMax compares with (arXiv 2604.08302, Section 4)."""

import torch

from dmaxlit.noise.base import NOISE, NoiseStrategy, View, Views
from dmaxlit.randomness import RowGenerator
from dmaxlit.tokens import CleanBatch

__all__ = ["UniformNoise"]


@NOISE.register("uniform")
class UniformNoise(NoiseStrategy):
    """Uniform diffusion: a masked view, and a view with random vocabulary tokens at the same positions.

    ``x_t[i] ~ U(vocabulary without the mask token)`` where corrupted; cross-entropy to ``x_0`` over all response
    positions of both views. The random tokens look nothing like the model's own errors, which is why DMax
    replaces this strategy by ``on_policy``.
    """

    def views(self, clean: CleanBatch, generator: RowGenerator) -> Views:
        """Yield the masked view, then the random-token view."""
        corruption = self.corrupt(clean, generator)
        masked, level = corruption.positions, corruption.level
        yield View(clean.with_masks(masked), clean.response, "masked", is_masked=masked, level=level)
        u = generator.rand(clean.ids.shape[1])
        random = clean.special.predictable((u * clean.special.num_predictable).long())
        yield View(torch.where(masked, random, clean.ids), clean.response, "random", level=level)
