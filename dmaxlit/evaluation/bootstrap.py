"""Intervals by the bootstrap over prompts."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_CHUNK = 1 << 22  # prompts drawn at a time, so that memory does not grow with the number of resamples


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval.

    Args:
        mean: The mean; nan if it is undefined.
        low: Lower end of the interval.
        high: Upper end.
        prompts: Number of prompts that it is over.
    """

    mean: float
    low: float
    high: float
    prompts: int

    def to_dict(self) -> dict[str, float | int | None]:
        """Return plain values for JSON, nan as None."""
        values = {"mean": self.mean, "low": self.low, "high": self.high}
        plain: dict[str, float | int | None] = {
            name: None if math.isnan(value) else value for name, value in values.items()
        }
        return {**plain, "prompts": self.prompts}


def bootstrap_mean(values: Array, resamples: int = 1000, seed: int = 0, confidence: float = 0.95) -> Estimate:
    """Return the mean of one value per prompt, with the percentile interval over resampled prompts.

    Prompts whose value is nan do not count.

    Args:
        values: ``[N]`` value of each prompt.
        resamples: Number of samples of N prompts, drawn with replacement.
        seed: Seed of the draws.
        confidence: Share of the resampled means inside the interval.
    """
    defined = values[~np.isnan(values)]
    return bootstrap_ratio(defined, np.ones(len(defined)), resamples, seed, confidence)


def bootstrap_ratio(
    numerators: Array, denominators: Array, resamples: int = 1000, seed: int = 0, confidence: float = 0.95
) -> Estimate:
    """Return ``sum numerators / sum denominators``, with the percentile interval over resampled prompts.

    This is the mean over items of which a prompt has several, such as cells: they are resampled with their prompt.

    Args:
        numerators: ``[N]`` sum of each prompt.
        denominators: ``[N]`` number of items of each prompt. Prompts without items do not count.
        resamples: Number of samples of N prompts, drawn with replacement.
        seed: Seed of the draws.
        confidence: Share of the resampled ratios inside the interval.
    """
    counted = denominators > 0
    above, below = numerators[counted], denominators[counted]
    n = len(above)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    rng = np.random.default_rng(seed)
    ratios: list[Array] = []
    remaining = resamples
    while remaining > 0:
        rows = min(remaining, max(1, _CHUNK // n))
        drawn = rng.integers(n, size=(rows, n))
        ratios.append(above[drawn].sum(1) / below[drawn].sum(1))
        remaining -= rows
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(ratios), [tail, 1 - tail])
    return Estimate(float(above.sum() / below.sum()), float(low), float(high), n)
