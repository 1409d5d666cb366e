"""On-policy training on what soft parallel decoding feeds: promoted guesses as hybrid embeddings, masks elsewhere.

OPUT (DMax, arXiv 2604.08302) trains on hard guesses at every masked position, while its decoder feeds blends of guess
and mask embedding, and only where a position has been promoted. The strategy here closes that gap; it is ours.
"""

from typing import Literal

import torch
from torch import Tensor

from dmaxlit.errors import UserError, check_fraction
from dmaxlit.noise.base import NOISE, Level, NoiseStrategy, View, Views
from dmaxlit.noise.rollout import check_rollout, check_weights, draw, teacher_forced
from dmaxlit.noise.schedules import AlphaSchedule
from dmaxlit.randomness import RowGenerator
from dmaxlit.tokens import CleanBatch, SoftTokens

__all__ = ["SoftOnPolicyNoise"]


@NOISE.register("soft_on_policy")
class SoftOnPolicyNoise(NoiseStrategy):
    """OPUT with the guesses fed as SPD feeds them: promoted ones as hybrid embeddings, the rest still masks.

    With ``v_i`` the guess at masked position i and ``c_i`` its probability under the masked view: in each block the
    longest prefix of masked positions with ``c_i > tau_dec``, at least the leftmost one, enters the predicted view as
    ``c_i E[v_i] + (1 - c_i) E[mask]`` at SPD's norm (arXiv 2604.08302, Eqs. 7-10); the others stay masks, visible
    tokens stay clean. Cross-entropy to ``x_0`` over all response positions of both views; two passes, as OPUT.

    Args:
        level: Noise level t in [0, 1]: a number, a [low, high] range, or a LevelDistribution. DMax uses 0.75.
        per: Draw one level for each sequence or for each block.
        stratified: Spread the levels evenly over the global batch.
        schedule: Turns a level into a masking probability ``1 - alpha_t``; linear by default.
        tau_dec: Promotion threshold in [0, 1], or a [low, high] range from which each block draws its own. 0 promotes
            every guess, as OPUT does.
        contiguous: Promote a prefix only. False: every guess above ``tau_dec``, at least the leftmost one.
        rollout: ``argmax``, as SPD has it, or ``sample``.
        temperature: Of the samples, above 0.
        clean_fraction: Share of the promoted positions that show the clean token at the guess's confidence, in [0, 1]. With 0
            mixtures say nothing about ``x_0`` that the model did not know, it learns to ignore them, and positions
            with several good answers are never settled. Of OPUT's tokens at level 0.75 a quarter are clean.
        masked_weight: Weight of the masked view's loss, at least 0.
        predicted_weight: Weight of the predicted view's loss, at least 0.
    """

    def __init__(
        self,
        level: Level = 0.75,
        per: Literal["sequence", "block"] = "sequence",
        stratified: bool = False,
        schedule: AlphaSchedule | None = None,
        tau_dec: float | tuple[float, float] = (0.0, 0.5),
        contiguous: bool = True,
        rollout: Literal["sample", "argmax"] = "argmax",
        temperature: float = 1.0,
        clean_fraction: float = 0.25,
        masked_weight: float = 1.0,
        predicted_weight: float = 1.0,
    ) -> None:
        super().__init__(level, per, stratified, schedule)
        self.low, self.high = tau_dec if isinstance(tau_dec, (tuple, list)) else (tau_dec, tau_dec)
        if not 0 <= self.low <= self.high <= 1:
            raise UserError(f"tau_dec: expected a number in [0, 1] or a range in it, got {tau_dec}")
        check_rollout(rollout, temperature)
        check_weights(masked_weight=masked_weight, predicted_weight=predicted_weight)
        self.contiguous = contiguous
        self.rollout = rollout
        self.temperature = temperature
        self.clean_fraction = check_fraction("clean_fraction", clean_fraction)
        self.masked_weight = masked_weight
        self.predicted_weight = predicted_weight

    def views(self, clean: CleanBatch, generator: RowGenerator) -> Views:
        """Yield the masked view, then the one SPD would feed after it."""
        corruption = self.corrupt(clean, generator)
        masked = self.masked_ids(clean, corruption)
        prediction = yield View(
            masked, clean.response, "masked", self.masked_weight, is_masked=corruption.positions, level=corruption.level
        )
        tokens = draw(prediction, generator, self.rollout, self.temperature)
        chosen = prediction.map(_probability, tokens)
        guess = prediction.scatter(tokens, into=masked)
        confidence = prediction.scatter(chosen, into=torch.zeros_like(corruption.level))
        promoted = self._promoted(clean, corruption.positions, confidence, generator)
        shown = teacher_forced(promoted, self.clean_fraction, generator)
        guess = torch.where(shown, clean.ids, guess)
        yield View(
            torch.where(promoted, guess, masked),
            clean.response,
            "predicted",
            self.predicted_weight,
            is_masked=corruption.positions & ~promoted,
            model_filled=promoted & ~shown,
            level=corruption.level,
            soft=SoftTokens.with_mask(guess.unsqueeze(-1), confidence.unsqueeze(-1), clean.special.mask_id, promoted),
        )

    def _promoted(self, clean: CleanBatch, masked: Tensor, confidence: Tensor, generator: RowGenerator) -> Tensor:
        """SPD's step 1 in every block, ``[batch, length]`` bool."""
        blocks = clean.blocks
        u = generator.rand(int(blocks[-1]) + 1)[:, blocks]
        sure = masked & (confidence > self.low + (self.high - self.low) * u)
        shape, chunks = masked.shape, (-1, clean.block_length)
        sure, masked = sure.reshape(chunks), masked.reshape(chunks)
        if self.contiguous:
            sure = sure & ((masked & ~sure).cumsum(1) == 0)
        first = masked & (masked.cumsum(1) == 1)
        return (sure | first).reshape(shape)


def _probability(logits: Tensor, tokens: Tensor) -> Tensor:
    """Probability of a token at each position, ``[n]``, given ``[n, V]`` logits."""
    logits = logits.float()
    return (logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)).exp()
