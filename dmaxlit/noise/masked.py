"""Masked diffusion (MDLM, arXiv 2406.07524; block form BD3-LM, arXiv 2503.09573)."""

from typing import Any, Literal

import torch
from torch import Tensor

from dmaxlit.errors import UserError, check_at_least, check_choice
from dmaxlit.noise.base import NOISE, Corruption, Level, NoiseStrategy, View, Views
from dmaxlit.randomness import RowGenerator
from dmaxlit.tokens import CleanBatch

__all__ = ["MaskedNoise"]


@NOISE.register("masked")
class MaskedNoise(NoiseStrategy):
    """Masked diffusion: each response token is replaced by the mask token with probability 1 - alpha_t.

    ``loss = sum over masked i of w(t) * -log p(x_0[i] | x_t)``, one view. (MDLM, arXiv 2406.07524, Eq. 10.)

    Args:
        level: Noise level t in [0, 1]: a number, a [low, high] range, or a LevelDistribution.
        weighting: ``none``: every masked token has weight 1. ``elbo``: ``-alpha'_t / (1 - alpha_t)`` (1/t), the
            likelihood bound. ``realized``: ``-alpha'_t (n + 1) / m`` where m of the n response tokens of the sequence
            or block are masked: the same bound with less variance, if levels are uniform on [0, 1]. (For other levels
            it is no bound; over a narrower range it counts sets of masks at the range's ends differently.)
        span_length: Mask whole spans of so many consecutive tokens, counted from the start of a block, each with
            probability 1 - alpha_t. 1 masks each token by itself.
        supervise: ``masked``: loss on masked positions only; ``all``: on every response position.
    """

    def __init__(
        self,
        level: Level = (0.0, 1.0),
        *,
        weighting: Literal["none", "elbo", "realized"] = "none",
        supervise: Literal["masked", "all"] = "masked",
        span_length: int = 1,
        **corruption: Any,
    ) -> None:
        super().__init__(level, **corruption)
        self.weighting = check_choice("weighting", weighting, ("none", "elbo", "realized"))
        check_at_least(1, span_length=span_length)
        if span_length > 1 and weighting == "realized":
            raise UserError(f"span_length: expected 1 for weighting realized, which counts tokens, got {span_length}")
        self.span_length = span_length
        self.supervise = check_choice("supervise", supervise, ("masked", "all"))
        if supervise == "all" and weighting != "none":
            raise UserError(f"supervise: expected masked for weighting {weighting}, which weighs masks, got 'all'")

    def views(self, clean: CleanBatch, generator: RowGenerator) -> Views:
        """Yield the masked view."""
        corruption = self.corrupt(clean, generator)
        yield View(
            clean.with_masks(corruption.positions),
            supervised=corruption.positions if self.supervise == "masked" else clean.response,
            name="masked",
            weight=self._weight(clean, corruption),
            is_masked=corruption.positions,
            level=corruption.level,
        )

    def corrupt(self, clean: CleanBatch, generator: RowGenerator) -> Corruption:
        """Choose positions as the base class does, or whole spans of a response."""
        scattered = super().corrupt(clean, generator)
        if self.span_length == 1:
            return scattered
        # The base class has drawn the levels; spans are drawn anew, one number for each.
        place = torch.arange(clean.ids.shape[1], device=clean.ids.device)
        per_block = -(-clean.block_length // self.span_length)
        span = clean.blocks * per_block + place % clean.block_length // self.span_length
        u = generator.rand(clean.num_blocks * per_block)[:, span]
        return Corruption((u < self.schedule.noise_rate(scattered.level)) & clean.response, scattered.level)

    def _weight(self, clean: CleanBatch, corruption: Corruption) -> Tensor | float:
        """Return the weight of each position's loss, a number or ``[batch, length]``."""
        if self.weighting == "none":
            return 1.0
        if self.weighting == "elbo":
            return self.schedule.elbo_weight(corruption.level)
        # Given m, the mean of 1 / (1 - alpha) over uniform 1 - alpha is B(m, n - m + 1) / B(m + 1, n - m + 1).
        per_block = self.per == "block"
        group = clean.blocks if per_block else torch.zeros_like(clean.blocks)
        groups = clean.num_blocks if per_block else 1
        count = torch.zeros(clean.ids.shape[0], groups, dtype=torch.float32, device=clean.ids.device)
        total = count.index_add(1, group, clean.response.float())
        masked = count.index_add(1, group, corruption.positions.float())
        _, slope = self.schedule(corruption.level)
        return -slope * ((total + 1) / masked.clamp(min=1))[:, group]
