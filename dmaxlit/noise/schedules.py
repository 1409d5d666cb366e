"""Noise schedules: distributions of the level t, and the schedule alpha_t that turns t into a corruption rate.

Time runs from t = 0 (clean) to t = 1 (all noise). ``alpha_t`` is the probability that a token is still clean.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from dmaxlit.errors import UserError
from dmaxlit.registry import class_and_options


class LevelDistribution(ABC):
    """Distribution of the noise level t on [0, 1], given by its inverse distribution function."""

    def __repr__(self) -> str:
        """Return the class and its options."""
        return class_and_options(self)

    @abstractmethod
    def quantile(self, u: Tensor) -> Tensor:
        """Return the level at the quantile ``u`` in [0, 1), same shape; stratified ``u`` gives stratified levels."""

    def at(self, step: int) -> "LevelDistribution":
        """Return the distribution at an optimiser step; the same at every step unless a subclass overrides this."""
        return self


class FixedLevel(LevelDistribution):
    """Always the same level.

    Args:
        t: Level in [0, 1].
    """

    def __init__(self, t: float) -> None:
        if not 0.0 <= t <= 1.0:
            raise UserError(f"level: expected a number in [0, 1], got {t}")
        self.t = t

    def quantile(self, u: Tensor) -> Tensor:
        """Return the fixed level, whatever ``u``."""
        return torch.full_like(u, self.t)


class UniformLevel(LevelDistribution):
    """t ~ U(low, high).

    Args:
        low: Smallest level, in [0, 1].
        high: Largest level, in [low, 1].
    """

    def __init__(self, low: float = 0.0, high: float = 1.0) -> None:
        if not 0.0 <= low <= high <= 1.0:
            raise UserError(f"level: expected 0 <= low <= high <= 1, got [{low}, {high}]")
        self.low, self.high = low, high

    def quantile(self, u: Tensor) -> Tensor:
        """Return ``low + (high - low) u``."""
        return self.low + (self.high - self.low) * u


class LevelCurriculum(LevelDistribution):
    """Levels that change during training: each stage has a first step and a level.

    A function of the step alone, so a resumed run continues with the same levels.

    Args:
        stages: First step of each stage and its level, a number or a [low, high] range; the first stage begins at 0.
            ``{0: [0.0, 0.5], 500: [0.0, 1.0]}``: at most half the tokens for 500 steps, then any share of them.
    """

    def __init__(self, stages: dict[int, float | tuple[float, float]]) -> None:
        if not stages or min(stages) != 0:
            raise UserError(f"stages: expected a first stage that begins at step 0, got steps {sorted(stages)}")
        self.stages = {step: as_level(stages[step]) for step in sorted(stages)}

    def at(self, step: int) -> LevelDistribution:
        """Return the distribution of the last stage that began at or before ``step``."""
        return self.stages[max(start for start in self.stages if start <= step)]

    def quantile(self, u: Tensor) -> Tensor:
        """Return the quantile of the first stage."""
        return self.at(0).quantile(u)


def as_level(level: "float | tuple[float, float] | LevelDistribution") -> LevelDistribution:
    """Return the distribution for what a user may write: a number, a pair, or a distribution.

    Raises:
        UserError: If a number lies outside [0, 1] or a pair is not ordered.
    """
    if isinstance(level, LevelDistribution):
        return level
    if isinstance(level, (tuple, list)):
        if len(level) != 2:
            raise UserError(f"level: expected a number, a [low, high] pair or a LevelDistribution, got {level!r}")
        return UniformLevel(float(level[0]), float(level[1]))
    return FixedLevel(float(level))


class AlphaSchedule(ABC):
    """Probability ``alpha_t`` that a token is still clean at level t, with its derivative."""

    def __repr__(self) -> str:
        """Return the class and its options."""
        return class_and_options(self)

    @abstractmethod
    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(alpha_t, d alpha_t / dt)``, each shaped like ``t``; alpha falls from 1 at t = 0 to 0 at t = 1."""

    def noise_rate(self, t: Tensor) -> Tensor:
        """Return the probability of corruption, ``1 - alpha_t``."""
        return 1 - self(t)[0]

    def elbo_weight(self, t: Tensor) -> Tensor:
        """Return MDLM's weight ``-alpha'_t / (1 - alpha_t)`` of the masked cross-entropy (1/t if linear).

        Masking probabilities below 1e-3 count as 1e-3, lest a single token outweigh a batch.
        """
        alpha, slope = self(t)
        return -slope / (1 - alpha).clamp(min=1e-3)


class LinearSchedule(AlphaSchedule):
    """``alpha_t = 1 - t``."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return value and derivative."""
        return 1 - t, -torch.ones_like(t)


class CosineSchedule(AlphaSchedule):
    """``alpha_t = cos(pi t / 2)``: less noise at small t."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return value and derivative."""
        angle = t * (math.pi / 2)
        return angle.cos(), -(math.pi / 2) * angle.sin()


class PolynomialSchedule(AlphaSchedule):
    """``alpha_t = 1 - t**power``.

    Args:
        power: Exponent, above 0 (1 is linear).
    """

    def __init__(self, power: float = 2.0) -> None:
        if not power > 0:
            raise UserError(f"power: expected a number above 0, got {power}")
        self.power = power

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return value and derivative."""
        return 1 - t**self.power, -self.power * t ** (self.power - 1)
