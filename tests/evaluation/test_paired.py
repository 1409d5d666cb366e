import itertools
import math
import random
from fractions import Fraction

import numpy as np
import pytest

from dmaxlit.evaluation.paired import paired_difference, paired_ratio, probability_as_far


def verdicts(seed, n):
    drawn = random.Random(seed)
    return [[drawn.random() < share for _ in range(n)] for share in (0.4, 0.6)]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("n", [1, 2, 9, 40])
def test_the_interval_is_that_of_bonett_and_price(seed, n):
    a, b = verdicts(seed, n)
    # Reference: one more discordant prompt of each kind, two more prompts, then the textbook (Wald) interval.
    more = [int(y) - int(x) for x, y in zip(a, b, strict=True)] + [1, -1]
    mean = Fraction(sum(more), n + 2)
    variance = Fraction(sum(value * value for value in more), n + 2) - mean * mean
    half = 1.959963984540054 * math.sqrt(variance / (n + 2))
    found = paired_difference([a], [b])
    assert found.difference == pytest.approx(sum(b) / n - sum(a) / n)
    assert found.low == pytest.approx(max(-1.0, float(mean) - half))
    assert found.high == pytest.approx(min(1.0, float(mean) + half))
    assert found.only_b - found.only_a == sum(b) - sum(a)


def test_the_interval_covers_the_difference_about_as_often_as_it_says():
    drawn, covered, runs = random.Random(1), 0, 600
    for _ in range(runs):
        a = [drawn.random() < 0.5 for _ in range(60)]
        b = [x if drawn.random() < 0.7 else drawn.random() < 0.8 for x in a]  # truth: 0.3 * (0.8 - 0.5)
        found = paired_difference([a], [b])
        covered += found.low <= 0.09 <= found.high
    assert 0.92 < covered / runs < 0.98


@pytest.mark.parametrize("only_a", range(5))
@pytest.mark.parametrize("only_b", range(5))
def test_of_verdicts_the_test_is_mcnemar_s_which_counts_all_throws_of_a_coin(only_a, only_b):
    n, smaller = only_a + only_b, min(only_a, only_b)
    throws = list(itertools.product((0, 1), repeat=n))
    extreme = sum(sum(throw) <= smaller or sum(throw) >= n - smaller for throw in throws)
    a, b = [True] * only_a + [False] * only_b + [True], [False] * only_a + [True] * only_b + [True]
    found = paired_difference([a], [b])
    assert found.p_value == pytest.approx(extreme / len(throws))


def drawn_runs(seed, number, n):
    """Return runs no two of which agree on every prompt."""
    drawn = random.Random(seed)
    return drawn.sample([run for run in itertools.product((False, True), repeat=n) if sum(run) >= n // 2], number)


def mean_difference(right_a, right_b):
    """Return the sum over the prompts of B's share of right runs less A's."""
    return sum(Fraction(sum(map(sum, runs)), len(runs)) * sign for runs, sign in ((right_b, 1), (right_a, -1)))


def p_of_swapped_sides(right_a, right_b):
    """Try all ways of swapping the two sides at each prompt."""
    by_prompt = [
        mean_difference([[run[i]] for run in right_a], [[run[i]] for run in right_b]) for i in range(len(right_a[0]))
    ]
    sums = [
        sum(sign * d for sign, d in zip(signs, by_prompt, strict=True))
        for signs in itertools.product((-1, 1), repeat=len(by_prompt))
    ]
    return sum(abs(value) >= abs(sum(by_prompt)) for value in sums) / len(sums)


def p_of_drawn_runs(runs, of_a, of_b):
    """Try all choices of the runs that are right at a prompt, as many as were; a run given again is right with it."""
    given = sorted({*of_a, *of_b})
    weights = [Fraction(of_b.count(run), len(of_b)) - Fraction(of_a.count(run), len(of_a)) for run in given]
    chosen = [itertools.combinations(weights, sum(right)) for right in zip(*(runs[run] for run in given), strict=True)]
    sums = [sum(map(sum, choice)) for choice in itertools.product(*chosen)]
    observed = mean_difference([runs[run] for run in of_a], [runs[run] for run in of_b])
    return sum(abs(value) >= abs(observed) for value in sums) / len(sums)


@pytest.mark.parametrize("seed", range(8))
def test_of_as_many_runs_on_both_sides_it_counts_all_ways_of_swapping_them(seed):
    runs = drawn_runs(seed, 6, 9)
    found = paired_difference(runs[:3], runs[3:])
    assert found.p_value == pytest.approx(p_of_swapped_sides(runs[:3], runs[3:]))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("of_a", "of_b"), [((0,), (1, 2, 3)), ((0, 0, 0), (1, 2, 3)), ((0, 1, 0), (2, 3, 4)), ((0, 1, 2), (3, 4))]
)
def test_of_fewer_runs_on_one_side_it_counts_all_choices_of_them_too(seed, of_a, of_b):
    runs = drawn_runs(seed, 5, 4)
    right_a, right_b = [runs[i] for i in of_a], [runs[i] for i in of_b]
    found = paired_difference(right_a, right_b)
    expected = max(p_of_swapped_sides(right_a, right_b), p_of_drawn_runs(runs, of_a, of_b))
    assert found.p_value == pytest.approx(expected)


def test_one_run_without_an_error_beside_three_with_two_each_is_not_significant():
    """The sign test, by which it was, takes an error of the one for as likely as one of the three."""
    three = [[index not in errors for index in range(20)] for errors in ((0, 1), (2, 3), (4, 5))]
    found = paired_difference([[True] * 20], three)
    # Each of the six errors is with equal chances one of the four runs'; the one's counts three times.
    as_far = [errors for errors in range(7) if abs(3 * errors - (6 - errors)) >= 6]
    assert as_far == [0, 3, 4, 5, 6]
    expected = sum(math.comb(6, errors) * 3 ** (6 - errors) for errors in as_far) / 4**6
    assert found.p_value == pytest.approx(expected)


@pytest.mark.parametrize("distinct", [1, 3])
def test_one_run_and_three_that_are_equally_good_differ_no_more_often_than_the_level(distinct):
    """Both if the three err independently and if they err together, of which the one knows nothing."""
    drawn, trials, significant = np.random.default_rng(0), 1000, 0
    for _ in range(trials):
        one, *others = (drawn.random((1 + distinct, 40)) > 0.06).tolist()
        significant += paired_difference([one], (others * 3)[:3]).p_value <= 0.05
    assert significant / trials <= 0.05


def test_three_runs_that_are_as_often_right_as_one_are_not_worse():
    """They have three chances to be wrong at a prompt: more prompts are worse than better."""
    one = [True] * 90 + [False] * 10
    three = [[index % 3 != run or index >= 30 for index in range(100)] for run in range(3)]
    found = paired_difference([one], three)
    assert found.difference == pytest.approx(0)
    assert (found.only_a, found.only_b, found.p_value) == (30, 10, 1.0)


def test_large_counts_have_a_p_value():
    coin, three = {-1: 1, 1: 1}, {-3: 1, 3: 1}
    assert probability_as_far([coin] * 6000, 0) == 1.0
    assert 0 < probability_as_far([coin] * 2000, 200) < 1e-4
    assert probability_as_far([coin] * 5000, 5000) == 0.0
    assert 0 < probability_as_far([three] * 300 + [coin] * 400 + [{-2: 1, 2: 1}] * 400, 300) < 0.05


def test_the_ratio_s_interval_is_the_quantiles_of_a_paired_bootstrap():
    drawn = random.Random(3)
    a = ([drawn.randint(1, 30) for _ in range(13)], [drawn.randint(1, 9) for _ in range(13)])
    b = ([drawn.randint(1, 30) for _ in range(13)], [drawn.randint(1, 9) for _ in range(13)])
    found = paired_ratio(a, b, resamples=300, seed=5)
    ratios = []
    for picks in np.random.default_rng(5).integers(0, 13, (300, 13)).tolist():
        sums = [sum(column[pick] for pick in picks) for column in (*a, *b)]
        ratios.append(sums[2] / sums[3] / (sums[0] / sums[1]))
    ratios.sort()

    def quantile(share):
        below, part = divmod(share * 299, 1)
        return ratios[int(below)] * (1 - part) + ratios[int(below) + 1] * part

    assert found.ratio == pytest.approx(sum(b[0]) / sum(b[1]) / (sum(a[0]) / sum(a[1])))
    assert (found.low, found.high) == pytest.approx((quantile(0.025), quantile(0.975)))


def test_the_same_counts_have_a_ratio_of_one_whatever_is_drawn():
    counts = ([5, 7, 30], [1, 4, 2])
    assert paired_ratio(counts, counts, resamples=50).low == pytest.approx(1.0)
    doubled = ([10, 14, 60], counts[1])
    assert paired_ratio(counts, doubled, resamples=50).high == pytest.approx(2.0)


def test_without_tokens_there_is_no_ratio():
    assert math.isnan(paired_ratio(([0, 0], [1, 1]), ([3, 3], [1, 1]), resamples=9).ratio)


def test_the_draws_do_not_depend_on_how_many_are_drawn_at_once(monkeypatch):
    a, b = ([5, 7, 30], [1, 4, 2]), ([4, 9, 11], [2, 2, 2])
    at_once = paired_ratio(a, b, resamples=200)
    monkeypatch.setattr("dmaxlit.evaluation.bootstrap._CHUNK", 7)
    assert paired_ratio(a, b, resamples=200) == at_once


def test_no_prompts_and_unequal_numbers_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        paired_difference([[]], [[]])
    with pytest.raises(ValueError, match="zip"):
        paired_difference([[True]], [[True, False]])
    with pytest.raises(ValueError, match="at least one"):
        paired_ratio(([], []), ([], []))
    with pytest.raises(ValueError, match="shape"):
        paired_ratio(([1], [1]), ([1, 2], [1, 2]))


def test_shares_of_several_runs_are_compared_by_prompt():
    a, b = verdicts(7, 40)
    assert paired_difference([np.array(a, dtype=bool)], [np.array(b, dtype=bool)]) == paired_difference([a], [b])
    # Two prompts gain in one and two of three runs, one loses in one of them.
    before = [[0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]]
    found = paired_difference(before, [[1, 1, 0, 1], [0, 1, 1, 1], [0, 1, 1, 1]])
    assert (found.only_a, found.only_b) == (1, 2)
    assert found.difference == pytest.approx((1 / 3 + 2 / 3 - 1 / 3) / 4)
    mean, square = (2 / 3) / 6, (1 / 9 + 4 / 9 + 1 / 9 + 2) / 6
    assert found.high == pytest.approx(mean + 1.959963984540054 * math.sqrt((square - mean**2) / 6))
