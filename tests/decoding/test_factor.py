import random

import pytest

from dmaxlit import UserError
from dmaxlit.decoding import FactorDecoder
from tests.decoding.logits import fresh, run
from tests.engine.scripted import SPECIAL

M = SPECIAL.mask_id


def test_the_largest_n_within_the_bound():
    # (n + 1) (1 - c): 2 x 0.05 = 0.1, 3 x 0.1 = 0.3, 4 x 0.3 = 1.2
    (state,) = run(FactorDecoder(1.0), fresh(FactorDecoder()), [(1, 0.7), (2, 0.95), (3, 0.9), (4, 0.6)])
    assert state.ids.tolist() == [[M, 2, 3, M]]
    (state,) = run(FactorDecoder(1.25), fresh(FactorDecoder()), [(1, 0.7), (2, 0.95), (3, 0.9), (4, 0.6)])
    assert state.ids.tolist() == [[1, 2, 3, M]]


def test_at_least_one():
    (state,) = run(FactorDecoder(0.1), fresh(FactorDecoder()), [(1, 0.3), (2, 0.4), (3, 0.35), (4, 0.2)])
    assert state.ids.tolist() == [[M, 2, M, M]]


def test_it_is_the_published_loop():
    rng = random.Random(0)
    for _ in range(40):
        confidences, factor = [round(rng.uniform(0.2, 0.999), 3) for _ in range(6)], rng.choice([0.5, 1.0, 2.0])
        (state,) = run(FactorDecoder(factor), fresh(FactorDecoder(), 6), [(1, c) for c in confidences])
        count = 1
        for n, c in enumerate(sorted(confidences, reverse=True), start=1):
            if n > 1 and not (n + 1) * (1 - c) < factor:
                break
            count = n
        assert int((~state.masked).sum()) == count


def test_factors_out_of_range_are_refused():
    with pytest.raises(UserError, match="factor: expected a number above 0, got 0"):
        FactorDecoder(0)
