import math

import pytest
import torch

from dmaxlit import UserError
from dmaxlit.decoding import CreditDecoder, ThresholdDecoder
from tests.decoding.logits import fresh, logits_of, run
from tests.engine.scripted import SPECIAL


def reference(steps, threshold, alpha, beta, gamma):
    """Return the commits of a few one-row steps, position by position."""
    length, vocab = len(steps[0]), SPECIAL.vocab_size
    credit = [[0.0] * vocab for _ in range(length)]
    block = [SPECIAL.mask_id] * length
    for step in steps:
        raw = logits_of(step)[0].tolist()
        fused = {}
        for i in range(length):
            total = sum(math.exp(x) for x in raw[i])
            best = max(range(vocab), key=lambda v, i=i: raw[i][v])
            credit[i] = [beta * c for c in credit[i]]
            if block[i] == SPECIAL.mask_id:
                credit[i][best] += (math.exp(raw[i][best]) / total) ** gamma
                weights = [math.exp(x) * (1 + c) ** alpha for x, c in zip(raw[i], credit[i], strict=True)]
                token = max(range(vocab), key=lambda v, weights=weights: weights[v])
                fused[i] = (weights[token] / sum(weights), token)
        top = max(confidence for confidence, _ in fused.values())
        for i, (confidence, token) in fused.items():
            if confidence > threshold or confidence == top:
                block[i] = token
        yield list(block)


STEPS = [
    [(1, 0.5), (2, 0.6), (3, 0.45), (4, 0.3)],
    [(1, 0.52), (5, 0.6), (3, 0.5), (4, 0.35)],
    [(1, 0.55), (5, 0.6), (6, 0.5), (4, 0.4)],
    [(1, 0.5), (5, 0.5), (6, 0.5), (4, 0.5)],
]


@pytest.mark.parametrize("options", [(0.95, 0.7, 0.8, 0.2), (0.7, 2.0, 0.5, 1.0), (0.62, 0.7, 1.0, 0.0)])
def test_credit_is_the_rule_written_out(options):
    decoder = CreditDecoder(*options)
    states = run(decoder, fresh(decoder), *STEPS)
    done = next(index for index, state in enumerate(states) if state.converged.all()) + 1
    assert done > 1
    expected = list(reference(STEPS[:done], *options))
    assert [state.ids.tolist()[0] for state in states[:done]] == expected


def test_a_token_proposed_again_is_committed_below_the_threshold():
    patient = [(1, 0.8), (2, 0.9), (3, 0.6)]
    credit, plain = CreditDecoder(0.85, alpha=1.0), ThresholdDecoder(0.85)
    with_credit = run(credit, fresh(credit, 3), patient, patient)
    without = run(plain, fresh(plain, 3), patient, patient)
    assert with_credit[0].ids[0, 0] == 1
    assert without[0].masked[0, 0]


def test_without_weight_it_is_threshold_decoding():
    for threshold in (0.3, 0.55, 0.95):
        credit, plain = CreditDecoder(threshold, alpha=0.0), ThresholdDecoder(threshold)
        for ours, theirs in zip(run(credit, fresh(credit), *STEPS), run(plain, fresh(plain), *STEPS), strict=True):
            assert ours.ids.tolist() == theirs.ids.tolist()


def test_a_table_longer_than_the_vocabulary_is_no_trouble():
    decoder = CreditDecoder(0.5)
    logits = torch.nn.functional.pad(logits_of(STEPS[0]), (0, 6), value=-20.0)
    wide = decoder.step(fresh(decoder), logits, SPECIAL)
    assert torch.equal(wide.ids, run(decoder, fresh(decoder), STEPS[0])[0].ids)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": -1.0}, "alpha: expected a number of at least 0, got -1.0"),
        ({"beta": 1.5}, r"beta: expected a number in \[0, 1\], got 1.5"),
        ({"threshold": 2.0}, r"threshold: expected a number in \[0, 1\], got 2.0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        CreditDecoder(**options)
