"""Two ways of answering the same prompts: differences and ratios with paired intervals."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from dmaxlit.evaluation.bootstrap import percentile_interval, resampled

_RESAMPLES = 10_000


@dataclass(frozen=True)
class PairedDifference:
    """Difference of two accuracies on the same prompts, B - A.

    Args:
        difference: As a fraction.
        low: Lower bound of the interval.
        high: Upper bound of the interval.
        only_a: Prompts that A alone answers right; of several runs, that A answers right more often.
        only_b: Prompts that B alone answers right, or more often.
        p_value: Of the exact randomisation test, see :func:`paired_difference`; of one run each McNemar's.
    """

    difference: float
    low: float
    high: float
    only_a: int
    only_b: int
    p_value: float


@dataclass(frozen=True)
class PairedRatio:
    """Ratio of two quotients of sums over the same prompts, B / A.

    Args:
        ratio: The ratio; nan if a sum is 0.
        low: Lower bound of the interval; nan if a sum is 0 in one of the draws, as may be with few prompts.
        high: Upper bound of the interval.
    """

    ratio: float
    low: float
    high: float


def paired_difference(
    right_a: Sequence[Sequence[bool]], right_b: Sequence[Sequence[bool]], confidence: float = 0.95
) -> PairedDifference:
    """Compute the difference of two accuracies on the same n prompts, with an interval and a test.

    The prompts are what is drawn, not the answers: of several runs the shares of them that are right at a prompt are
    compared. With ``d`` the differences of the shares, ``m = sum d / (n + 2)`` and ``s = (sum d^2 + 2) / (n + 2)``, the
    interval is ``m ± z sqrt((s - m^2) / (n + 2))``, cut off at -1 and 1: of one run each that of Bonett and Price
    (2012). Like Wilson's it is not empty where the answers agree on every prompt.

    The p-value is that of Fisher's exact randomisation test: the probability that ``sum d`` is at least as far from 0
    if it is chance which side is A's at a prompt, so that each ``d`` has either sign with probability 1/2; of one run
    each, McNemar's exact test. One run cannot be swapped with three, which have three chances to err. For unequal
    numbers of runs the p-value is therefore the larger of this one and that of a second test, by which it is chance
    which of all the runs are A's at a prompt. The second is exact if the runs are exchangeable; alone it would be too
    small where the three agree with each other more than with the one.

    Args:
        right_a: Verdicts on the answers of each of A's runs. Runs that agree on every prompt are one run, which counts
            as often as it is given.
        right_b: Those of B's, on the same prompts.
        confidence: Coverage, in (0, 1).

    Raises:
        ValueError: For no prompts, or sequences of different length.

    Example:
        >>> paired_difference([[True, True, False, False]], [[True, False, True, True]]).difference
        0.25
    """
    unit = math.lcm(len(right_a), len(right_b))  # in which shares are whole numbers
    weights, verdicts = [], []
    for side, sign in ((right_a, -1), (right_b, 1)):
        for run, count in Counter(map(tuple, side)).items():
            weights.append(sign * count * unit // len(side))
            verdicts.append(run)
    prompts = list(zip(*verdicts, strict=True))
    if not prompts:
        raise ValueError("right_a: expected at least one verdict, got none")
    n = len(prompts)
    differences = [sum(compress(weights, right)) for right in prompts]
    total, mean = sum(differences), sum(differences) / unit / (n + 2)
    square = (sum(d * d for d in differences) / unit**2 + 2) / (n + 2)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    half = z * math.sqrt((square - mean**2) / (n + 2))
    return PairedDifference(
        difference=total / unit / n,
        low=max(-1.0, mean - half),
        high=min(1.0, mean + half),
        only_a=sum(d < 0 for d in differences),
        only_b=sum(d > 0 for d in differences),
        p_value=_p_value(prompts, weights, differences),
    )


def _p_value(prompts: Sequence[Sequence[bool]], weights: Sequence[int], differences: Sequence[int]) -> float:
    swapped = probability_as_far([{d: 1, -d: 1} for d in differences], sum(differences))
    if sorted(weights) == sorted(-weight for weight in weights):
        return swapped
    choices = _choices(weights)
    return max(swapped, probability_as_far([choices[sum(right)] for right in prompts], sum(differences)))


def _choices(weights: Sequence[int]) -> list[Counter[int]]:
    """Count, for each number of the weights, the choices of so many of them by their sum."""
    ways: list[Counter[int]] = [Counter({0: 1}), *(Counter() for _ in weights)]
    for done, weight in enumerate(weights):
        for number in range(done, -1, -1):
            for total, count in ways[number].items():
                ways[number + 1][total + weight] += count
    return ways


def probability_as_far(differences: Iterable[Mapping[int, int]], total: int) -> float:
    """Return the probability that a sum of independent differences is at least as far from 0 as ``total``.

    Args:
        differences: For each prompt the differences it could have, and how often each occurs among equally likely ones.
        total: The sum that was observed.

    Example:
        >>> probability_as_far([{-1: 1, 1: 1}] * 6, 4)
        0.21875
    """
    lowest, shares = 0, np.ones(1)  # shares: of the sums from the lowest on
    for ways in differences:
        low = min(ways)
        of_one = np.zeros(max(ways) - low + 1)
        of_one[[difference - low for difference in ways]] = list(ways.values())
        lowest, shares = lowest + low, np.convolve(shares, of_one / of_one.sum())
    sums = np.arange(lowest, lowest + len(shares))
    return float(shares[np.abs(sums) >= abs(total)].sum() / shares.sum())


def paired_ratio(
    a: tuple[Sequence[int], Sequence[int]],
    b: tuple[Sequence[int], Sequence[int]],
    confidence: float = 0.95,
    resamples: int = _RESAMPLES,
    seed: int = 0,
) -> PairedRatio:
    """Compute the ratio of two quotients of sums, such as TPF, with a paired bootstrap interval over prompts.

    Prompts are drawn with replacement, each with its counts under A and under B; the interval is between the quantiles
    of ``(sum n_B / sum d_B) / (sum n_A / sum d_A)``.

    Args:
        a: Numerators and denominators of A, one of each for each prompt: tokens and forwards.
        b: Those of B, for the same prompts.
        confidence: Coverage, in (0, 1).
        resamples: Number of draws.
        seed: Seed of the draws; the same on every machine.

    Raises:
        ValueError: For no prompts, or sequences of different length.
    """
    counts = np.array([*a, *b], dtype=np.float64)  # [4, N]
    if counts.ndim != 2 or counts.shape[1] == 0:
        raise ValueError("a: expected at least one prompt, got none")
    ratios = [_ratio(counts[:, drawn].sum(-1)) for drawn in resampled(counts.shape[1], resamples, seed)]
    low, high = percentile_interval(ratios, confidence)
    return PairedRatio(float(_ratio(counts.sum(-1, keepdims=True))[0]), low, high)


def _ratio(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the ratios of ``[4, R]`` sums; nan where one is 0."""
    numerator_a, denominator_a, numerator_b, denominator_b = np.where(sums == 0, np.nan, sums)
    ratios: npt.NDArray[np.float64] = (numerator_b / denominator_b) / (numerator_a / denominator_a)
    return ratios
