"""Intervals by the bootstrap over prompts."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_CHUNK = 1 << 20  # prompts drawn at a time, so that memory does not grow with the number of resamples


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
    ratios = [above[drawn].sum(1) / below[drawn].sum(1) for drawn in resampled(n, resamples, seed)]
    low, high = percentile_interval(ratios, confidence)
    return Estimate(float(above.sum() / below.sum()), low, high, n)


def resampled(n: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield the indices of prompts that are drawn with replacement, some resamples at a time.

    Args:
        n: Number of prompts, at least 1.
        resamples: Number of samples of n prompts.
        seed: Seed of the draws; the same on every machine.

    Yields:
        ``[R, n]`` indices; the R add up to ``resamples``.
    """
    rng, at_once = np.random.default_rng(seed), max(1, _CHUNK // n)
    for begin in range(0, resamples, at_once):
        yield rng.integers(n, size=(min(at_once, resamples - begin), n))


def percentile_interval(values: Sequence[Array], confidence: float) -> tuple[float, float]:
    """Return the bounds between which the given share of resampled figures lies.

    Args:
        values: ``[R]`` figures of resamples, in any number of parts.
        confidence: Share of the figures inside the interval.
    """
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(values), [tail, 1 - tail])
    return float(low), float(high)
