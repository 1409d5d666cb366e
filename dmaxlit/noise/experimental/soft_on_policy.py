"""On-policy training on the inputs of soft parallel decoding: promoted tokens as hybrid embeddings, masks elsewhere.

OPUT (DMax, arXiv 2604.08302) trains on hard tokens at every masked position, while its decoder feeds blends of token
and mask embedding, and only where a position has been promoted. This strategy closes that gap. It is not in the paper.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from dmaxlit.decoding.spd import promote
from dmaxlit.errors import UserError, check_fraction
from dmaxlit.noise.base import NOISE, Level, NoiseStrategy, View, Views
from dmaxlit.noise.rollout import check_rollout, check_weights, draw, teacher_forced
from dmaxlit.randomness import RowGenerator
from dmaxlit.tokens import CleanBatch, SoftTokens

__all__ = ["SoftOnPolicyNoise"]


@NOISE.register("soft_on_policy")
class SoftOnPolicyNoise(NoiseStrategy):
    """OPUT with predicted tokens fed as SPD feeds them: promoted ones as hybrid embeddings, the rest still masks.

    With ``v_i`` the token predicted at masked position i and ``c_i`` its probability under the masked view: in each
    block the longest prefix of masked positions with ``c_i > tau_dec``, at least the leftmost one, enters the predicted
    view as ``c_i E[v_i] + (1 - c_i) E[mask]`` at SPD's norm (arXiv 2604.08302, Eqs. 7-10); the others stay masks,
    visible tokens stay clean. Cross-entropy to ``x_0`` over all response positions of both views.

    Args:
        level: Noise level t in [0, 1]: a number, a [low, high] range, or a LevelDistribution. DMax uses 0.75.
        tau_dec: Promotion threshold in [0, 1], or a [low, high] range from which one is drawn for each block. 0
            promotes every token, as OPUT does.
        contiguous: Promote a prefix only. False: every token above ``tau_dec``, at least the leftmost one.
        rollout: ``argmax``, as in SPD, or ``sample``.
        temperature: Temperature of the samples, above 0.
        clean_fraction: Share of the promoted positions that hold the clean token at the confidence of the predicted
            one, in [0, 1]. With 0, soft tokens carry no information about ``x_0`` that the model does not have: it
            learns to ignore them, and positions with several correct tokens are never settled. At level 0.75 a quarter
            of OPUT's tokens are clean.
        masked_weight: Weight of the masked view's loss, at least 0.
        predicted_weight: Weight of the predicted view's loss, at least 0.
    """

    def __init__(
        self,
        level: Level = 0.75,
        *,
        tau_dec: float | tuple[float, float] = (0.0, 0.5),
        contiguous: bool = True,
        rollout: Literal["sample", "argmax"] = "argmax",
        temperature: float = 1.0,
        clean_fraction: float = 0.25,
        masked_weight: float = 1.0,
        predicted_weight: float = 1.0,
        **corruption: Any,
    ) -> None:
        super().__init__(level, **corruption)
        ends = tau_dec if isinstance(tau_dec, (tuple, list)) else (tau_dec, tau_dec)
        if len(ends) != 2 or not 0 <= ends[0] <= ends[1] <= 1:
            raise UserError(f"tau_dec: expected a number in [0, 1] or a range in it, got {tau_dec}")
        self.low, self.high = ends
        check_rollout(rollout, temperature)
        check_weights(masked_weight=masked_weight, predicted_weight=predicted_weight)
        self.contiguous = contiguous
        self.rollout = rollout
        self.temperature = temperature
        self.clean_fraction = check_fraction("clean_fraction", clean_fraction)
        self.masked_weight = masked_weight
        self.predicted_weight = predicted_weight

    def views(self, clean: CleanBatch, generator: RowGenerator) -> Views:
        """Yield the masked view, then the one that SPD would feed after it."""
        corruption = self.corrupt(clean, generator)
        masked, level = corruption.positions, corruption.level
        ids = clean.with_masks(masked)
        prediction = yield View(ids, clean.response, "masked", self.masked_weight, is_masked=masked, level=level)

        # SPD's next input: promoted tokens as mixtures with the mask, some of them replaced by the clean token.
        drawn = draw(prediction, generator, self.rollout, self.temperature)
        confidence = prediction.scatter(prediction.map(_probability, drawn), into=torch.zeros_like(level))
        promoted = self._promoted(clean, masked, confidence, generator)
        forced = teacher_forced(promoted, self.clean_fraction, generator)
        tokens = torch.where(forced, clean.ids, prediction.scatter(drawn, into=ids))
        del prediction  # or its logits would be kept while the next view is predicted
        yield View(
            torch.where(promoted, tokens, ids),
            clean.response,
            "predicted",
            self.predicted_weight,
            is_masked=masked & ~promoted,
            model_filled=promoted & ~forced,
            level=level,
            soft=SoftTokens.with_mask(tokens.unsqueeze(-1), confidence.unsqueeze(-1), clean.special.mask_id, promoted),
        )

    def _promoted(self, clean: CleanBatch, masked: Tensor, confidence: Tensor, generator: RowGenerator) -> Tensor:
        """Apply SPD's promotion rule in every block with a separate threshold, ``[batch, length]`` bool."""
        tau_dec = self.low + (self.high - self.low) * generator.rand(clean.num_blocks)[:, clean.blocks]
        masked, confidence, tau_dec = (
            tensor.reshape(-1, clean.block_length) for tensor in (masked, confidence, tau_dec)
        )
        return promote(masked, confidence, tau_dec, self.contiguous).reshape(clean.ids.shape)


def _probability(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return the probability of a token at each position, ``[n]``, given ``[n, V]`` logits.

    ``token_probability`` of :mod:`dmaxlit.decoding.proposal` rounds differently (it goes through log-odds), and would
    change the trained weights.
    """
    return (logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)).exp()
