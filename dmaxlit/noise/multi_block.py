"""Several blocks denoised together, MultiTF (arXiv 2606.29215)."""

import warnings
from copy import copy
from dataclasses import replace
from typing import Any

from dmaxlit.errors import DMaxWarning, UserError, check_at_least
from dmaxlit.factory import make_by_name
from dmaxlit.noise.base import NOISE, Corruption, FeatureRequest, NoiseStrategy, Views
from dmaxlit.noise.block_groups import (
    HIGHEST,
    LOWEST,
    chain_levels,
    choose_exactly,
    draw_groups,
    range_levels,
    rank_in_group,
    split_at_prompts,
)
from dmaxlit.randomness import RowGenerator
from dmaxlit.tokens import CleanBatch

__all__ = ["MultiBlockNoise"]

_OF_THE_CORRUPTION = ("level", "per", "stratified", "schedule", "span_length")


@NOISE.register("multi_block")
class MultiBlockNoise(NoiseStrategy):
    """MultiTF: another strategy's views, with blocks in groups of rising noise that attend to each other.

    Neighbouring blocks form groups of at most ``group_size``. A noisy block attends to the noisy blocks of its group up
    to itself and to the clean blocks of earlier groups, as in decoding with a window of several blocks. In block j of a
    group exactly ``floor(n * p_j)`` of the n response tokens are corrupted, with ``L ~ U(.001, .99)``,
    ``p_1 ~ U(L, .99)`` and ``p_j ~ U(p_(j-1), .99)``; as published, never all n, so never a block's only one. A row has
    one of the layouts of the paper in each epoch: groups of every size from 2 on, from every start. Blocks too short
    for any token to be corrupted are refused, such as those of one token at the start of a warm-up.

    Args:
        group_size: Most blocks in a group (N), at least 2: the window that the model will decode with.
        base: Registered name of the strategy whose views these are: ``masked``, or ``on_policy`` for OPUT. The noise of
            a view of inverse masks (``complementary``) falls where that of the others rises.
        base_options: Its options, without those of the noise level and of spans; ``weighting: realized`` weighs by the
            masks of a sequence, and does not go with a level for each block.
        ranges: Range [low, high] of the level of the first, second ... block of a group, in place of the rising
            levels; the last one is that of all further blocks. The published DMax settings are [[.001, .2], [.8, 1]].
        random_layouts: Number of random layouts beside the regular ones, at least 0 (in the paper 2, or 0 for maths).
    """

    def __init__(
        self,
        group_size: int = 2,
        *,
        base: str = "masked",
        base_options: dict[str, Any] | None = None,
        ranges: list[tuple[float, float]] | None = None,
        random_layouts: int = 0,
    ) -> None:
        super().__init__()
        check_at_least(2, group_size=group_size)
        check_at_least(0, random_layouts=random_layouts)
        if ranges is not None:
            _check_ranges(ranges)
        options = base_options or {}
        for name in _OF_THE_CORRUPTION:
            if name in options:
                raise UserError(f"base_options: expected no {name}, since groups have masks of their own, got one")
        if options.get("weighting") == "realized":
            raise UserError("base_options: expected weighting none or elbo, as blocks have levels, got 'realized'")
        self.base: NoiseStrategy = make_by_name("base", NOISE, NoiseStrategy, base, options)
        if isinstance(self.base, MultiBlockNoise):
            raise UserError(f"base: expected another strategy, got {base!r}")
        self.feature_layer = self.base.feature_layer
        self.group_size = group_size
        self.base_options = base_options
        self.ranges = ranges
        self.random_layouts = random_layouts

    def views(self, clean: CleanBatch, generator: RowGenerator) -> Views:
        """Yield the views of the other strategy with their groups, the same for all views of a batch.

        Raises:
            UserError: If the blocks are so short that none of their tokens would ever be corrupted.
        """
        self._check_length(clean.block_length)
        groups = draw_groups(clean, self.group_size, self.random_layouts, generator)
        rank = rank_in_group(groups)
        level = chain_levels(rank, generator) if self.ranges is None else range_levels(rank, self.ranges, generator)
        positions = choose_exactly(clean, level, generator)
        base = copy(self.base)
        base.corruption = Corruption(positions, level.repeat_interleave(clean.block_length, 1))
        groups, answer, turns = split_at_prompts(groups, clean), None, base.views(clean, generator)
        while True:
            try:
                turn = turns.send(answer)
            except StopIteration:
                return
            del answer  # or its logits would be kept while the next view is predicted
            answer = yield turn if isinstance(turn, FeatureRequest) else replace(turn, groups=groups)

    def _check_length(self, length: int) -> None:
        ranges = [(LOWEST, HIGHEST)] if self.ranges is None else self.ranges[: self.group_size]
        # Levels are below the highest one, unless it is the only one.
        idle = [place for place, (low, high) in enumerate(ranges, 1) if length * low < 1 and length * high <= 1]
        if len(idle) == len(ranges):
            raise UserError(
                "noise: expected blocks long enough for multi_block to corrupt floor(n * level) > 0 of n tokens, got "
                f"{length} (the model's block_length, or a stage of BlockWarmup)"
            )
        if idle:
            places = ", ".join(map(str, idle))
            message = f"ranges: at these levels no token of the blocks in place {places} of a group is corrupted"
            warnings.warn(f"{message}, since blocks have {length} tokens", DMaxWarning, stacklevel=2)


def _check_ranges(ranges: list[tuple[float, float]]) -> None:
    if not ranges or not all(len(pair) == 2 and 0 <= pair[0] <= pair[1] <= 1 for pair in ranges):
        raise UserError(f"ranges: expected pairs [low, high] with 0 <= low <= high <= 1, at least one, got {ranges}")
