import itertools
import math
import random

import numpy as np
import pytest
import torch

from dmaxlit.evaluation.bootstrap import bootstrap_mean
from dmaxlit.evaluation.order_figures import FIGURES, PARTS, AnswerOrder, order_rows, third_of


def answers(count=12):
    rng = random.Random(2)
    made = []
    for _ in range(count):
        n = rng.randint(1, 14)
        finalized = [rng.randint(1, 6) for _ in range(n)]
        made.append((finalized, [i // 4 for i in range(n)], rng.random() < 0.5))
    return made


def tau(order):
    pairs = list(itertools.combinations(order, 2))
    surplus = sum((a < b) - (a > b) for a, b in pairs)
    untied = sum(a != b for a, b in pairs)
    return surplus / math.sqrt(len(pairs) * untied) if untied else math.nan


def figures(finalized, block):
    """Return the figures of an answer or a part of one, in plain Python."""
    pairs = list(itertools.combinations(finalized, 2))
    by_block = [tau([f for f, b in zip(finalized, block, strict=True) if b == number]) for number in set(block)]
    defined = [value for value in by_block if not math.isnan(value)]
    return {
        "afp": len(finalized) / len(set(finalized)) if finalized else math.nan,
        "tau": tau(finalized),
        "tau_a": sum((a < b) - (a > b) for a, b in pairs) / len(pairs) if pairs else math.nan,
        "tau_in_block": sum(defined) / len(defined) if defined else math.nan,
    }


def test_the_rows_are_means_over_the_answers_of_their_group():
    made = answers()
    orders = [AnswerOrder(torch.tensor(f), torch.tensor(b), right) for f, b, right in made]
    rows = {(row.part, row.verdict): row for row in order_rows(orders, 100, 5)}
    assert len(rows) == len(PARTS) * 3
    for (part, verdict), row in rows.items():
        group = [(f, b) for f, b, right in made if verdict == "all" or right == (verdict == "right")]
        assert row.answers == len(group) > 2
        number = PARTS.index(part) - 1
        inside = [[i for i in range(len(f)) if number < 0 or 3 * i // len(f) == number] for f, _ in group]
        expected = [
            figures([f[i] for i in chosen], [b[i] for i in chosen])
            for (f, b), chosen in zip(group, inside, strict=True)
        ]
        for name in FIGURES:
            values = np.array([value[name] for value in expected])
            theirs, ours = bootstrap_mean(values, 100, 5), row.figures[name]
            assert (ours.mean, ours.low, ours.high) == pytest.approx((theirs.mean, theirs.low, theirs.high))
            assert ours.prompts == np.isfinite(values).sum()


def test_thirds_differ_by_one_token_at_most():
    for n in range(3, 20):
        sizes = torch.bincount(third_of(n))
        assert len(sizes) == 3
        assert int(sizes.max() - sizes.min()) <= 1
    assert third_of(0).tolist() == []


def test_without_verdicts_there_are_no_rows_of_right_answers():
    orders = [AnswerOrder(torch.tensor([1, 2]), torch.tensor([0, 0]), None)]
    assert {row.verdict for row in order_rows(orders)} == {"all"}
