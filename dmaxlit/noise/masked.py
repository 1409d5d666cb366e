"""Masked diffusion (MDLM, arXiv 2406.07524; block form BD3-LM, arXiv 2503.09573)."""

from typing import Literal

import torch
from torch import Tensor

from dmaxlit.errors import UserError
from dmaxlit.noise.base import NOISE, Corruption, Level, NoiseStrategy, View, Views
from dmaxlit.noise.schedules import AlphaSchedule
from dmaxlit.randomness import RowGenerator
from dmaxlit.tokens import CleanBatch

__all__ = ["MaskedNoise"]


@NOISE.register("masked")
class MaskedNoise(NoiseStrategy):
    """Masked diffusion: each response token is replaced by the mask token with probability 1 - alpha_t.

    ``loss = sum over masked i of w(t) * -log p(x_0[i] | x_t)``, one view. (MDLM, arXiv 2406.07524, Eq. 10.)

    Args:
        level: Noise level t in [0, 1]: a number, a [low, high] range, or a LevelDistribution.
        per: Draw one level for each sequence or for each block.
        stratified: Spread the levels evenly over the global batch, for a lower variance of the loss.
        schedule: Turns a level into a masking probability ``1 - alpha_t``; linear by default.
        weighting: ``none``: every masked token counts alike. ``elbo``: ``-alpha'_t / (1 - alpha_t)`` (1/t), the
            likelihood bound. ``realized``: 1 / the masked fraction that came out in the sequence or block; the same
            objective with less variance.
        supervise: ``masked``: loss on masked positions only; ``all``: on every response position.
    """

    def __init__(
        self,
        level: Level = (0.0, 1.0),
        per: Literal["sequence", "block"] = "sequence",
        stratified: bool = False,
        schedule: AlphaSchedule | None = None,
        weighting: Literal["none", "elbo", "realized"] = "none",
        supervise: Literal["masked", "all"] = "masked",
    ) -> None:
        super().__init__(level, per, stratified, schedule)
        if weighting not in ("none", "elbo", "realized"):
            raise UserError(f"weighting: expected 'none', 'elbo' or 'realized', got {weighting!r}")
        if supervise not in ("masked", "all"):
            raise UserError(f"supervise: expected 'masked' or 'all', got {supervise!r}")
        self.weighting = weighting
        self.supervise = supervise

    def views(self, clean: CleanBatch, generator: RowGenerator) -> Views:
        """Yield the masked view."""
        corruption = self.corrupt(clean, generator)
        yield View(
            self.masked_ids(clean, corruption),
            supervised=corruption.positions if self.supervise == "masked" else clean.response,
            name="masked",
            weight=self._weight(clean, corruption),
            is_masked=corruption.positions,
            level=corruption.level,
        )

    def _weight(self, clean: CleanBatch, corruption: Corruption) -> Tensor | float:
        if self.weighting == "none":
            return 1.0
        if self.weighting == "elbo":
            return self.schedule.elbo_weight(corruption.level)
        group = clean.blocks if self.per == "block" else torch.zeros_like(clean.blocks)
        groups = int(group[-1]) + 1
        count = torch.zeros(clean.ids.shape[0], groups, device=clean.ids.device)
        total = count.index_add(1, group, clean.response.float())
        masked = count.index_add(1, group, corruption.positions.float())
        return (total / masked.clamp(min=1))[:, group]
