"""Token editing: masks and wrong tokens in one view (LLaDA2.1, arXiv 2602.08676)."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from dmaxlit.errors import UserError, check_choice, check_fraction
from dmaxlit.noise.base import NOISE, Level, NoiseStrategy, View, Views
from dmaxlit.noise.rollout import check_weights, draw
from dmaxlit.randomness import RowGenerator
from dmaxlit.tokens import CleanBatch

__all__ = ["EditingNoise"]


@NOISE.register("editing")
class EditingNoise(NoiseStrategy):
    """LLaDA2.1: masks at some response positions, wrong tokens at some of the others; the clean token is the target.

    Mask-to-token and token-to-token in one view: ``m ~ Bernoulli(1 - alpha_t)`` is masked, of the positions still
    visible ``e ~ Bernoulli(edit_rate)`` hold a wrong token, and ``loss = sum over i of w_i * -log p(x_0[i] | x_t)``
    with ``mask_weight``, ``edit_weight`` or ``keep_weight`` for w. ``second_turn_weight`` adds the multi-turn forward:
    a view with the model's first prediction at every position that was masked or edited. The paper does not publish
    its mixing ratios. Train with this strategy for the decoder ``edit``.

    Args:
        level: Noise level t in [0, 1]: a number, a [low, high] range, or a LevelDistribution.
        edit_rate: Share of the visible response tokens that are replaced, in [0, 1].
        wrong: The tokens that replace them. ``random``: drawn from the vocabulary without the clean token and the mask.
            ``own``: drawn from the model's prediction for the view in which these positions are masked too, so they
            may be the clean tokens; this costs one more forward, without gradients.
        mask_weight: Weight of each masked position, at least 0.
        edit_weight: Weight of each edited position, at least 0.
        keep_weight: Weight of each position that holds its clean token, at least 0. With 0 nothing teaches the model
            to leave a correct token unchanged.
        second_turn_weight: Weight of each response position of the second turn, at least 0; 0 for no such view.
    """

    level_only: ClassVar = {"edit_rate": 0.0}

    def __init__(
        self,
        level: Level = (0.0, 1.0),
        *,
        edit_rate: float = 0.2,
        wrong: Literal["random", "own"] = "random",
        mask_weight: float = 1.0,
        edit_weight: float = 1.0,
        keep_weight: float = 1.0,
        second_turn_weight: float = 0.0,
        **corruption: Any,
    ) -> None:
        super().__init__(level, **corruption)
        check_weights(mask_weight=mask_weight, edit_weight=edit_weight, keep_weight=keep_weight)
        if not second_turn_weight >= 0:
            raise UserError(f"second_turn_weight: expected a number >= 0, got {second_turn_weight}")
        self.edit_rate = check_fraction("edit_rate", edit_rate)
        self.wrong = check_choice("wrong", wrong, ("random", "own"))
        self.mask_weight = mask_weight
        self.edit_weight = edit_weight
        self.keep_weight = keep_weight
        self.second_turn_weight = second_turn_weight

    def views(self, clean: CleanBatch, generator: RowGenerator) -> Views:
        """Yield the mixed view, after a rollout if the wrong tokens are the model's own, and the second turn."""
        corruption = self.corrupt(clean, generator)
        masked, level = corruption.positions, corruption.level
        edited = clean.response & ~masked & (generator.rand(clean.ids.shape[1]) < self.edit_rate)
        corrupted = masked | edited
        if self.wrong == "random":
            tokens = _wrong_tokens(clean, generator)
        else:
            ids = clean.with_masks(corrupted)
            rollout = yield View(ids, clean.response, "rollout", weight=0.0, is_masked=corrupted, level=level)
            tokens = rollout.scatter(draw(rollout, generator, "sample"), into=clean.ids)
            del rollout  # or its logits would be kept while the next view is predicted

        # Mask-to-token and token-to-token in one view.
        weight = torch.full_like(level, self.keep_weight)
        prediction = yield View(
            torch.where(edited, tokens, clean.with_masks(masked)),
            clean.response if self.keep_weight > 0 else corrupted,
            "mixed",
            weight.masked_fill(masked, self.mask_weight).masked_fill(edited, self.edit_weight),
            is_masked=masked,
            model_filled=edited if self.wrong == "own" else None,
            level=level,
        )
        if self.second_turn_weight == 0:
            return

        # The multi-turn forward: the model's prediction wherever the first view was corrupted.
        tokens = prediction.scatter(draw(prediction, generator, "sample"), into=clean.ids)
        del prediction
        ids = torch.where(corrupted, tokens, clean.ids)
        yield View(ids, clean.response, "second_turn", self.second_turn_weight, model_filled=corrupted, level=level)


def _wrong_tokens(clean: CleanBatch, generator: RowGenerator) -> Tensor:
    """Draw a token uniformly from the vocabulary without the mask and the clean token, ``[batch, length]``."""
    special = clean.special
    # Draw from one id fewer than can be predicted, then step over the clean token.
    index = (generator.rand(clean.ids.shape[1]) * (special.num_predictable - 1)).long()
    tokens = special.predictable(index)
    return torch.where(tokens >= clean.ids, special.predictable(index + 1), tokens)
