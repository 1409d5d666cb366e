import random

import pytest

from dmaxlit import UserError
from dmaxlit.decoding import FactorDecoder, FrechetDecoder
from tests.decoding.logits import fresh, run
from tests.engine.scripted import SPECIAL

M = SPECIAL.mask_id


def committed(decoder, confidences):
    (state,) = run(decoder, fresh(decoder, len(confidences)), [(1, c) for c in confidences])
    return (~state.masked[0]).nonzero().flatten().tolist()


def reference(confidences, delta):
    """Return the positions that the published inequality commits, tried for every n."""
    order = sorted(range(len(confidences)), key=lambda i: -confidences[i])
    best = 1
    for n in range(1, len(order) + 1):
        chosen = [confidences[i] for i in order[:n]]
        if sum(chosen) - (n - 1) - (1 - chosen[-1]) > delta:
            best = n
    return sorted(order[:best])


def test_the_largest_n_within_the_bound():
    # 0.95 + 0.9 - 1 - 0.1 = 0.75, and with 0.7: 2.55 - 2 - 0.3 = 0.25, with 0.6: 3.15 - 3 - 0.4 = -0.25
    step = [(1, 0.7), (2, 0.95), (3, 0.9), (4, 0.6)]
    (state,) = run(FrechetDecoder(0.26), fresh(FrechetDecoder()), step)
    assert state.ids.tolist() == [[M, 2, 3, M]]
    (state,) = run(FrechetDecoder(0.24), fresh(FrechetDecoder()), step)
    assert state.ids.tolist() == [[1, 2, 3, M]]


def test_at_least_one():
    assert committed(FrechetDecoder(), [0.3, 0.4, 0.35, 0.2]) == [1]
    assert committed(FrechetDecoder(1.0), [1.0, 1.0]) == [0]


def test_the_prompt_takes_no_part():
    decoder = FrechetDecoder()
    (state,) = run(decoder, fresh(decoder, prompt=(5,)), [(1, 0.2), (2, 0.95), (3, 0.9), (4, 0.6)])
    assert state.ids.tolist() == [[5, 2, 3, M]]


def test_it_is_the_published_inequality():
    rng = random.Random(0)
    for _ in range(60):
        confidences, delta = [round(rng.uniform(0.6, 0.999), 3) for _ in range(8)], rng.choice([0.0, 0.25, 0.6])
        assert committed(FrechetDecoder(delta), confidences) == reference(confidences, delta)


def test_it_commits_as_many_as_the_factor_rule_or_more():
    rng, more = random.Random(1), 0
    for _ in range(60):
        confidences, delta = [round(rng.uniform(0.6, 0.999), 3) for _ in range(8)], rng.choice([0.1, 0.25, 0.6])
        ours = committed(FrechetDecoder(delta), confidences)
        factor = committed(FactorDecoder(1 - delta), confidences)
        assert set(factor) <= set(ours)
        more += len(ours) > len(factor)
    assert more
    # A cumulative sum of equal confidences, at a distance from the bound: 5 x 0.14 < 0.75 < 6 x 0.14.
    assert committed(FrechetDecoder(0.25), [0.86] * 8) == committed(FactorDecoder(0.75), [0.86] * 8) == [0, 1, 2, 3]


def test_deltas_out_of_range_are_refused():
    with pytest.raises(UserError, match=r"delta: expected a number in \[0, 1\], got 1.5"):
        FrechetDecoder(1.5)
