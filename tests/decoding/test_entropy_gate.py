import math

import pytest
import torch

from dmaxlit import UserError
from dmaxlit.decoding import EntropyGateDecoder, ThresholdDecoder, promote
from dmaxlit.decoding.proposal import propose
from tests.decoding.logits import fresh, run
from tests.engine.scripted import SPECIAL

M = SPECIAL.mask_id


def reference(logits, masked, beta, threshold, first):
    """Scan the masks from left to right in plain Python, with the sum over all positions that stay masked."""
    committed, total, seen = set(), 0.0, []
    for position, row in enumerate(logits.tolist()):
        if not masked[position]:
            continue
        weights = [math.exp(x) for x in row]
        p = [w / sum(weights) for w in weights]
        seen.append((max(p), position))
        if max(p) > threshold and total <= beta:
            committed.add(position)
        else:
            total -= sum(x * math.log(x) for x in p if x > 0)
    return committed or {max(seen[:first], key=lambda entry: entry[0])[1]}


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.5, 4.0])
@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("first", [1, 3, 20])
def test_it_is_the_scan_from_left_to_right(beta, threshold, first):
    decoder = EntropyGateDecoder(beta, threshold, first)
    for seed in range(12):
        logits = 3 * torch.randn(1, 8, SPECIAL.vocab_size, generator=torch.Generator().manual_seed(seed))
        logits[..., SPECIAL.mask_id] = -torch.inf
        state = decoder.start(torch.zeros(1, 8, dtype=torch.long), torch.arange(8)[None] >= seed % 3, SPECIAL)
        after = decoder.step(state, logits, SPECIAL)
        committed = set((state.masked & ~after.masked)[0].nonzero().flatten().tolist())
        assert committed == reference(logits[0], state.masked[0], beta, threshold, first)


# Entropies of a position with confidence c and the rest shared by eight tokens: 0.5 gives 1.73 nats, 0.95 gives 0.30.
STEP = [(1, 0.95), (2, 0.5), (3, 0.95), (4, 0.5), (5, 0.95)]


@pytest.mark.parametrize(("beta", "expected"), [(1.7, [1, M, M, M, M]), (1.8, [1, M, 3, M, M]), (3.5, [1, M, 3, M, 5])])
def test_masks_left_behind_close_the_gate(beta, expected):
    decoder = EntropyGateDecoder(beta)
    (state,) = run(decoder, fresh(decoder, 5), STEP)
    assert state.ids.tolist() == [expected]


def test_committed_tokens_and_the_prompt_do_not():
    decoder = EntropyGateDecoder(1.8)
    (state,) = run(decoder, fresh(decoder, 5, prompt=(7,)), [(1, 0.2), *STEP[1:]])
    assert state.ids.tolist() == [[7, M, 3, M, M]]
    states = run(decoder, fresh(decoder, 3), [(1, 0.3), (2, 0.5), (3, 0.4)], [(1, 0.5), (2, 0.2), (3, 0.95)])
    assert states[0].ids.tolist() == [[M, 2, M]]
    assert states[1].ids.tolist() == [[M, 2, 3]]


def test_otherwise_the_best_of_the_first_masks():
    step = [(1, 0.3), (2, 0.5), (3, 0.6), (4, 0.95)]
    for first, expected in ((1, [1, M, M, M]), (2, [M, 2, M, M]), (3, [M, M, 3, M]), (9, [M, M, M, 4])):
        decoder = EntropyGateDecoder(0.0, first=first)
        (state,) = run(decoder, fresh(decoder), step)
        assert state.ids.tolist() == [expected]


def test_its_limits_are_a_prefix_and_threshold_decoding():
    generator = torch.Generator().manual_seed(5)
    prefix, all_of_them, plain = (
        EntropyGateDecoder(0.0, 0.5, 1),
        EntropyGateDecoder(1e6, 0.5, 99),
        ThresholdDecoder(0.5),
    )
    for _ in range(20):
        logits = 3 * torch.randn(1, 6, SPECIAL.vocab_size, generator=generator)
        logits[..., SPECIAL.mask_id] = -torch.inf
        state = fresh(prefix, 6)
        expected = promote(state.masked, propose(state, logits).confidence, 0.5)
        assert torch.equal(~prefix.step(state, logits, SPECIAL).masked, expected)
        assert torch.equal(all_of_them.step(state, logits, SPECIAL).ids, plain.step(state, logits, SPECIAL).ids)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": -1.0}, "beta: expected a number of at least 0, got -1.0"),
        ({"threshold": 1.5}, r"threshold: expected a number in \[0, 1\], got 1.5"),
        ({"first": 0}, "first: expected at least 1, got 0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        EntropyGateDecoder(**options)
