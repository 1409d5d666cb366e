import math

import pytest
import torch

from dmaxlit import UserError
from dmaxlit.decoding import LessDecoder, ThresholdDecoder
from tests.decoding.logits import fresh, run
from tests.engine.scripted import SPECIAL

M = SPECIAL.mask_id


def distribution(row):
    weights = [math.exp(x) for x in row]
    return [w / sum(weights) for w in weights]


def divergence(p, q, top_k):
    """Jensen-Shannon in bits over the tokens that p prefers, all others being one."""
    tokens = sorted(range(len(p)), key=lambda v: -p[v])[:top_k]
    p, q = ([x[v] for v in tokens] + [max(0.0, 1 - sum(x[v] for v in tokens))] for x in (p, q))
    total = 0.0
    for a, b in zip(p, q, strict=True):
        total += sum(x / 2 * math.log2(x / ((a + b) / 2)) for x in (a, b) if x > 0)
    return total


def reference(steps, threshold, patience, max_divergence, top_k):
    """Yield the block after each forward, from the whole history of distributions."""
    history, block = [], [M] * len(steps[0])
    for step in steps:
        history.append([distribution(row) for row in step.tolist()])
        best = [[max(range(len(p)), key=lambda v, p=p: p[v]) for p in past] for past in history]
        masks = [i for i, token in enumerate(block) if token == M]
        surest = max(masks, key=lambda i: max(history[-1][i]))
        for i in masks:
            last = best[-patience - 1 :]
            persists = len(last) == patience + 1 and len({past[i] for past in last}) == 1
            calm = persists and divergence(history[-2][i], history[-1][i], top_k) <= max_divergence
            if i == surest or (calm and max(history[-1][i]) > threshold):
                block[i] = best[-1][i]
        yield list(block)


@pytest.mark.parametrize("patience", [1, 2])
@pytest.mark.parametrize("max_divergence", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("top_k", [1, 3, 9])
def test_it_is_the_rule_written_out(patience, max_divergence, top_k):
    decoder, several = LessDecoder(0.4, patience, max_divergence, top_k), 0
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        base, steps = 3 * torch.randn(8, SPECIAL.vocab_size, generator=generator), []
        state, ids = fresh(decoder, 8), []
        while not state.converged.all():
            logits = base + 0.7 * torch.randn(base.shape, generator=generator)
            logits[:, M] = -torch.inf
            steps.append(logits)
            after = decoder.step(state, logits[None], SPECIAL)
            several += int((state.masked & ~after.masked).sum()) > 1
            state = after
            ids.append(state.ids[0].tolist())
        assert ids == list(reference(steps, 0.4, patience, max_divergence, top_k))
    assert several or max_divergence < 0.1


CALM = [(1, 0.9), (2, 0.8), (3, 0.6), (4, 0.95)]


def states_of(*steps, **options):
    decoder = LessDecoder(**options)
    return [state.ids.tolist()[0] for state in run(decoder, fresh(decoder), *steps)]


def test_a_position_waits_until_its_token_has_been_repeated():
    assert states_of(CALM, CALM, CALM, patience=2) == [[M, M, M, 4], [1, M, M, 4], [1, 2, M, 4]]
    assert states_of(CALM, CALM, patience=1) == [[M, M, M, 4], [1, 2, M, 4]]


def test_another_token_in_between_starts_again():
    other = [(1, 0.9), (5, 0.8), (3, 0.6), (4, 0.95)]
    assert states_of(CALM, other, CALM, patience=1) == [[M, M, M, 4], [1, M, M, 4], [1, 2, M, 4]]
    states = states_of(other, CALM, [(1, 0.9), (5, 0.75), (3, 0.8), (4, 0.9)], patience=1)
    assert states == [[M, M, M, 4], [1, M, M, 4], [1, M, 3, 4]]


def test_a_distribution_that_moves_is_not_committed():
    moved = [(1, 0.97), (2, 0.95), (3, 0.6), (4, 0.95)]
    assert states_of(CALM, moved, patience=1, max_divergence=0.02)[1] == [1, M, M, 4]
    assert states_of(CALM, moved, patience=1, max_divergence=0.2)[1] == [1, 2, M, 4]


def test_an_unsure_position_waits_however_calm():
    assert states_of(CALM, CALM, CALM, patience=1)[1:] == [[1, 2, M, 4], [1, 2, 3, 4]]
    assert states_of(CALM, CALM, patience=1, threshold=0.5)[1] == [1, 2, 3, 4]


def test_the_first_forward_commits_one_whatever_the_options():
    assert states_of([(1, 1.0), (2, 1.0), (3, 1.0), (4, 1.0)], threshold=0.0, max_divergence=1.0)[0] == [1, M, M, M]


def test_from_the_second_forward_on_it_may_be_threshold_decoding():
    less, plain = LessDecoder(0.7, 1, 1.0), ThresholdDecoder(0.7)
    (_, ours) = run(less, fresh(less), CALM, CALM)
    assert torch.equal(ours.ids, run(plain, fresh(plain), CALM)[0].ids)


def test_more_tokens_than_there_are_is_all_of_them():
    assert states_of(CALM, CALM, CALM, top_k=256) == states_of(CALM, CALM, CALM, top_k=SPECIAL.vocab_size)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.5}, r"threshold: expected a number in \[0, 1\], got 1.5"),
        ({"max_divergence": -0.1}, r"max_divergence: expected a number in \[0, 1\], got -0.1"),
        ({"patience": 0}, "patience: expected at least 1, got 0"),
        ({"top_k": 0}, "top_k: expected at least 1, got 0"),
        ({"top_k": 257}, "top_k: expected at most 256, got 257"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        LessDecoder(**options)
