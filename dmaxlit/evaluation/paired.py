"""Two ways of answering the same prompts: differences and ratios with paired intervals."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from dmaxlit.evaluation.bootstrap import percentile_interval, resampled

_RESAMPLES = 10_000
_MOST_RUNS = 1000  # of which shares are told apart


@dataclass(frozen=True)
class PairedDifference:
    """Difference of two accuracies on the same prompts, B - A.

    Args:
        difference: As a fraction.
        low: Lower bound of the interval.
        high: Upper bound of the interval.
        only_a: Prompts that A alone answers right; of several runs, that A answers right more often.
        only_b: Prompts that B alone answers right, or more often.
        p_value: Of the exact randomisation test; of one run each McNemar's.
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
        low: Lower bound of the interval.
        high: Upper bound of the interval.
    """

    ratio: float
    low: float
    high: float


def paired_difference(right_a: Sequence[float], right_b: Sequence[float], confidence: float = 0.95) -> PairedDifference:
    """Compute the difference of two accuracies on the same n prompts, with an interval and a test.

    With ``b`` prompts that B alone answers right, ``a`` that A alone does, ``q = (b + 1) / (n + 2)`` and
    ``p = (a + 1) / (n + 2)``, the interval is ``(q - p) ± z sqrt((q + p - (q - p)^2) / (n + 2))`` (Bonett and Price,
    2012), cut off at -1 and 1. Like Wilson's it is not empty where the answers agree on every prompt. The p-value is
    that of McNemar's exact test: two-sided, of ``min(a, b)`` in ``a + b`` throws of a fair coin.

    Of several runs on the same prompts the prompts are what is drawn, not the answers: give the share of runs in which
    the answer is right. With ``d`` the differences of the shares, ``q - p`` becomes ``sum d / (n + 2)``, and ``q + p``
    becomes ``(sum d^2 + 2) / (n + 2)``; the test becomes :func:`randomisation_p_value`. (To count the prompts with
    ``d`` above and below 0 would not do: of three runs against one, the three have three chances to be worse.)

    Args:
        right_a: Verdicts on A's answers, or shares of them that are right.
        right_b: Those on B's, to the same prompts.
        confidence: Coverage, in (0, 1).

    Raises:
        ValueError: For no prompts, or sequences of different length.

    Example:
        >>> paired_difference([True, True, False, False], [True, False, True, True]).difference
        0.25
    """
    differences = [_share(b) - _share(a) for a, b in zip(right_a, right_b, strict=True)]
    if not differences:
        raise ValueError("right_a: expected at least one verdict, got none")
    n = len(differences)
    only_a, only_b = sum(d < 0 for d in differences), sum(d > 0 for d in differences)
    total, squares = float(sum(differences)), float(sum(d * d for d in differences))
    mean, square = total / (n + 2), (squares + 2) / (n + 2)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    half = z * math.sqrt((square - mean**2) / (n + 2))
    low, high = max(-1.0, mean - half), min(1.0, mean + half)
    runs = math.lcm(*(d.denominator for d in differences))
    p_value = randomisation_p_value([int(d * runs) for d in differences])
    return PairedDifference(total / n, low, high, only_a, only_b, p_value)


def _share(value: float) -> Fraction:
    """Return a share of runs as the fraction that it was before rounding."""
    return Fraction(float(value)).limit_denominator(_MOST_RUNS)


def randomisation_p_value(differences: Sequence[int]) -> float:
    """Return the two-sided p-value of Fisher's exact randomisation test that differences are about zero.

    Were it chance which of two answers is A's, each difference had either sign with probability 1/2. The p-value is the
    probability that their sum is then at least as far from 0. Where all are -1, 0 or 1 this is McNemar's exact test.

    Args:
        differences: Of each prompt, in whole numbers of runs.

    Example:
        >>> randomisation_p_value([-1, 1, 1, 1, 1, 1])
        0.21875
    """
    shares = np.ones(1)  # of the choices of signs, by the sum of the differences that are positive
    for size, count in Counter(abs(difference) for difference in differences if difference).items():
        of_size = np.zeros(size * count + 1)
        of_size[::size] = _throws_of_a_coin(count)
        shares = np.convolve(shares, of_size)
    positive, negative = (sum(max(sign * difference, 0) for difference in differences) for sign in (1, -1))
    return min(1.0, 2 * float(shares[: min(positive, negative) + 1].sum()))


def _throws_of_a_coin(number: int) -> list[float]:
    """Return the probabilities of 0, 1, ... heads."""
    ways = accumulate(range(number), lambda ways, heads: ways * (number - heads) // (heads + 1), initial=1)
    return [way / 2**number for way in ways]  # of integers of any size


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
