import math

import pytest
import torch

from dmaxlit import UserError
from dmaxlit.decoding import EntropyBoundedDecoder
from dmaxlit.decoding.proposal import entropy
from tests.decoding.logits import fresh, run
from tests.engine.scripted import SPECIAL


def reference(logits, masked, gamma, proxy):
    """Return the positions that the paper's rule commits, in plain Python."""
    table = []
    for position, row in enumerate(logits.tolist()):
        if not masked[position]:
            continue
        weights = [math.exp(x) for x in row]
        p = sorted((w / sum(weights) for w in weights), reverse=True)
        uncertainty = -sum(x * math.log(x) for x in p if x > 0)
        error = {"entropy": uncertainty, "confidence": 1 - p[0], "margin": p[1] - p[0]}[proxy]
        table.append((error, position, uncertainty))
    table.sort()
    best = 1
    for count in range(1, len(table) + 1):
        bounds = [h for _, _, h in table[:count]]
        if sum(bounds) - max(bounds) <= gamma:
            best = count
        else:
            break
    return {position for _, position, _ in table[:best]}


@pytest.mark.parametrize("proxy", ["entropy", "confidence", "margin"])
@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.6, 2.0, 50.0])
def test_the_longest_prefix_within_the_bound(gamma, proxy):
    decoder = EntropyBoundedDecoder(gamma, proxy)
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        logits = 4 * torch.randn(1, 8, SPECIAL.vocab_size, generator=generator)
        logits[..., SPECIAL.mask_id] = -torch.inf
        state = decoder.start(torch.zeros(1, 8, dtype=torch.long), torch.arange(8)[None] >= seed % 3, SPECIAL)
        after = decoder.step(state, logits, SPECIAL)
        committed = set((state.masked & ~after.masked)[0].nonzero().flatten().tolist())
        assert committed == reference(logits[0], state.masked[0], gamma, proxy)


def test_certain_positions_cost_nothing():
    decoder = EntropyBoundedDecoder(0.0)
    (state,) = run(decoder, fresh(decoder), [(1, 1.0), (2, 0.5), (3, 1.0), (4, 0.6)])
    assert (~state.masked).tolist() == [[True, False, True, True]]


def test_entropy_of_impossible_tokens_is_none():
    logits = torch.tensor([[0.0, 0.0, -torch.inf], [5.0, -torch.inf, -torch.inf]])
    torch.testing.assert_close(entropy(logits), torch.tensor([math.log(2), 0.0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": -1.0}, "gamma: expected a number of at least 0, got -1.0"),
        ({"proxy": "hope"}, "proxy: expected 'entropy', 'confidence' or 'margin', got 'hope'"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        EntropyBoundedDecoder(**options)
