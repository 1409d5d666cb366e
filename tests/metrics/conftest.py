"""Random answers, and what every metric must do with them: whole = in chunks = on two ranks."""

import math
import random

import pytest
import torch


@pytest.fixture
def answers():
    """Return (prompt length, tokens, forwards, finished, blocks at the step limit, right) of 41 answers."""
    rng = random.Random(0)
    return [
        (
            rng.randint(0, 40),
            rng.randint(1, 70),
            rng.randint(1, 30),
            rng.random() < 0.7,
            rng.randint(0, 3),
            rng.random() < 0.6,
        )
        for _ in range(41)
    ]


def column(answers, index):
    return torch.tensor([answer[index] for answer in answers])


def check_sharing(make, update, answers, expected):
    """Check a metric computed in one go, in three chunks and merged from two ranks; it is nan without answers."""
    whole = make()
    update(whole, answers)
    assert float(whole.compute()) == pytest.approx(expected, rel=1e-12)

    chunked = make()
    for begin, end in [(0, 7), (7, 7), (7, 41)]:
        update(chunked, answers[begin:end])
    assert float(chunked.compute()) == pytest.approx(expected, rel=1e-12)

    ranks = [make(), make()]
    for rank, metric in enumerate(ranks):
        update(metric, answers[rank::2])
    ranks[0].merge_state(ranks[1])
    assert float(ranks[0].compute()) == pytest.approx(expected, rel=1e-12)
    assert ranks[0].counts() == pytest.approx(whole.counts(), rel=1e-12)

    whole.reset()
    update(whole, answers[:0])
    assert math.isnan(float(whole.compute()))
