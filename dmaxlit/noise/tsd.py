"""Temporal self-distillation (TSD, arXiv 2609.15177)."""

from typing import Any

import torch
from torch import Tensor

from dmaxlit.errors import UserError, check_at_least, check_fraction
from dmaxlit.noise.base import NOISE, Level, NoiseStrategy, View, Views
from dmaxlit.noise.soft_targets import TeacherTargets
from dmaxlit.noise.trajectory import check_replay, replay
from dmaxlit.randomness import RowGenerator
from dmaxlit.tokens import CleanBatch

__all__ = ["TSDNoise"]


@NOISE.register("tsd")
class TSDNoise(NoiseStrategy):
    """TSD: predict early in a decoding trajectory what the model predicts when it decides the token.

    Threshold decoding is replayed on the text ``x_0``, a corpus that the model has written. With ``t_l`` the forward
    at which token l is decided and ``s`` drawn uniformly from the forwards of its block,
    ``loss = V(x_0) sum over l masked at s of JSD(p(. | x_s)_l, p(. | x_(t_l))_l)``, the second without gradients.
    There is no cross-entropy. V is 1, or falls with the length; a text that a verifier rejects has V = 0, and is left
    out of the corpus. (In the paper the current model writes the texts; here the corpus has them.)

    Logged: ``trajectory_forwards``, the mean number of forwards of a block. A step costs ``steps`` forwards without
    gradients and one view. Meant for a trained model, with a small learning rate (3e-6 with LoRA in the paper).

    Args:
        level: Noise level t in [0, 1] at which trajectories begin: a number, a [low, high] range, or a
            LevelDistribution. 1: with a whole block of masks, as decoding does.
        threshold: Confidence above which a position is decided, in [0, 1].
        steps: Most forwards of a trajectory, at least 2: the last one decides all that is left. Default: as many as a
            block has tokens, which is exact.
        length_penalty: gamma of ``V = 1 - gamma * (n - target_length) / (max_length - target_length)`` for answers of
            n tokens, more than ``target_length``; in [0, 1].
        target_length: Tokens of an answer from which on it is penalised, at least 0.
        max_length: Tokens of the longest answer, above ``target_length``.
    """

    def __init__(
        self,
        level: Level = 1.0,
        *,
        threshold: float = 0.9,
        steps: int | None = None,
        length_penalty: float = 0.0,
        target_length: int | None = None,
        max_length: int | None = None,
        **corruption: Any,
    ) -> None:
        super().__init__(level, **corruption)
        check_at_least(2, steps=steps)
        check_replay(threshold, steps)
        check_at_least(0, target_length=target_length)
        self.threshold = threshold
        self.steps = steps
        self.length_penalty = check_fraction("length_penalty", length_penalty)
        self.target_length = target_length
        self.max_length = max_length
        self._check_lengths()

    def _check_lengths(self) -> None:
        lengths = self.target_length, self.max_length
        if not self.length_penalty:
            if lengths != (None, None):
                raise UserError("length_penalty: expected above 0 with a target_length or max_length, got 0")
        elif self.target_length is None or self.max_length is None or self.max_length <= self.target_length:
            raise UserError(
                "target_length, max_length: expected two numbers, the second above the first, for a length_penalty, "
                f"got {lengths[0]} and {lengths[1]}"
            )

    def views(self, clean: CleanBatch, generator: RowGenerator) -> Views:
        """Yield the states of the trajectory, then the one of a forward drawn at random.

        Raises:
            UserError: If blocks have one token: there is no earlier state.
        """
        if clean.block_length == 1:
            raise UserError(
                "noise: expected blocks of at least 2 tokens for tsd, which learns from earlier states of a block, "
                "got 1 (the model's block_length, or a stage of BlockWarmup)"
            )
        corruption = self.corrupt(clean, generator)
        trajectory = yield from replay(clean, corruption, self.threshold, self.steps)
        forwards = trajectory.forwards
        masked = trajectory.masked((generator.rand(forwards.shape[1]) * forwards).long())
        yield View(
            clean.with_masks(masked),
            masked,
            "earlier",
            self._values(clean).unsqueeze(1).expand(masked.shape),
            is_masked=masked,
            level=corruption.level,
            objectives=(TeacherTargets(trajectory.states, trajectory.head, "jsd"),),
            figures=trajectory.figures,
        )

    def _values(self, clean: CleanBatch) -> Tensor:
        """Return V of each text, ``[batch]``."""
        text = clean.in_loss & (clean.ids != clean.special.eos_id)
        length = text.sum(1) + (clean.in_loss & ~text).any(1)  # of the EOS tokens that fill a block, the first counts
        if self.target_length is None or self.max_length is None:
            return torch.ones_like(length, dtype=torch.float32)
        excess = (length - self.target_length).clamp(min=0).float() / (self.max_length - self.target_length)
        return (1 - self.length_penalty * excess).clamp(min=0)
