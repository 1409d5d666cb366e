"""The fast argmax agrees with a plain loop, also for impossible tokens and nan; ranks and entropy are as defined."""

import math

import pytest
import torch

from dmaxlit.decoding import proposal as module
from dmaxlit.decoding.base import BlockState, Sampling
from dmaxlit.decoding.proposal import (
    Proposal,
    argmax_proposal,
    confidence_rank,
    descending_rank,
    entropy,
    most_confident,
    propose,
    scatter_proposal,
    score_tokens,
)

INF, NAN = math.inf, math.nan


def slow(logits):
    """Return the first of the most probable tokens of a position, and log(p / (1 - p)) in double precision."""
    best = max(range(len(logits)), key=lambda token: (logits[token], -token))
    others = [x - logits[best] for token, x in enumerate(logits) if token != best]
    peak = max(others)
    return best, -(peak + math.log(sum(math.exp(x - peak) for x in others)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 30.0, 300.0])
@pytest.mark.parametrize("chunk", [2**20, 12])
def test_tokens_and_log_odds_are_those_of_a_plain_loop(monkeypatch, dtype, scale, chunk):
    monkeypatch.setattr(module, "_CHUNK", chunk)
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(3, 4, 6, generator=generator) * scale).to(dtype)
    logits[0, 0, 2] = -INF
    logits[2, 2] = torch.tensor([5.0, 9, 9, 1, 0, 9])
    proposal = argmax_proposal(logits)
    for row in range(3):
        for position in range(4):
            token, log_odds = slow(logits[row, position].double().tolist())
            assert int(proposal.tokens[row, position]) == token
            assert float(proposal.log_odds[row, position]) == pytest.approx(log_odds, rel=1e-4, abs=1e-4)


def test_very_confident_positions_keep_their_order():
    logits = torch.zeros(4, 5)
    logits[:, 1] = torch.tensor([119.0, 120.0, 300.0, 50.0])
    assert argmax_proposal(logits).log_odds.argsort().tolist() == [3, 0, 1, 2]
    torch.testing.assert_close(argmax_proposal(logits).log_odds, score_tokens(logits, logits.argmax(-1)).log_odds)


@pytest.mark.parametrize("row", [[-INF] * 4, [NAN] * 4, [NAN, 1.0, 2.0, 0.0], [1.0, -INF, -INF, -INF]])
def test_impossible_tokens_and_nan(row):
    logits = torch.tensor([row, [0.0, 3.0, 1.0, 2.0]])
    fast, plain = argmax_proposal(logits), score_tokens(logits, logits.argmax(-1))
    assert not fast.confidence.isnan().any()
    torch.testing.assert_close(fast.confidence, plain.confidence)
    torch.testing.assert_close(fast.log_odds, plain.log_odds)
    assert torch.equal(fast.tokens, plain.tokens)


def test_scattered_proposals_are_at_their_positions():
    where = torch.tensor([[True, False, True], [False, False, True]])
    logits = torch.randn(3, 7)
    scattered, flat = scatter_proposal(argmax_proposal(logits), where), argmax_proposal(logits)
    for field in range(3):
        assert torch.equal(scattered[field][where], flat[field])
    assert (scattered.tokens[~where] == 0).all()
    assert (scattered.confidence[~where] == 0).all()
    assert (scattered.log_odds[~where] == -INF).all()


def test_tokens_drawn_for_some_positions_are_those_drawn_for_all():
    generator = torch.Generator().manual_seed(0)
    where = torch.rand(4, 8, generator=generator) < 0.4
    where[2] = False
    logits, draws = 2 * torch.randn(4, 8, 311, generator=generator), torch.rand(4, 8, generator=generator)
    sampling = Sampling(draws, torch.linspace(0.5, 2, 4), torch.linspace(0.6, 1, 4))
    nothing = torch.zeros_like(where)
    state = BlockState(nothing.long(), ~nothing, where, torch.zeros(4), nothing[:, 0], sampling=sampling)
    for some, every, blank in zip(propose(state, logits, where), propose(state, logits), (0, 0.0, -INF), strict=True):
        assert torch.equal(some, every.masked_fill(~where, blank))


@pytest.mark.parametrize("shape", [(4, 8), (4, 3, 8)])  # without and with versions of a block
def test_a_cpu_computes_in_chunks_what_it_computes_at_once(monkeypatch, shape):
    generator = torch.Generator().manual_seed(0)
    logits, draws = 2 * torch.randn(*shape, 311, generator=generator), torch.rand(4, 8, generator=generator)
    sampling = Sampling(draws, torch.linspace(0.5, 2, 4), torch.linspace(0.6, 1, 4))
    ids = torch.zeros(4, 8, dtype=torch.long)
    state = BlockState(ids, ids == 0, ids == 0, torch.zeros(4), ids[:, 0] == 1, sampling=sampling)
    tokens = torch.randint(311, shape, generator=generator)

    def columns():
        return *propose(state, logits), *score_tokens(logits, tokens), entropy(logits)

    at_once, sizes, convert = columns(), [], module._at_least_float32
    monkeypatch.setattr(module, "_at_least_float32", lambda chunk: sizes.append(chunk.numel()) or convert(chunk))
    monkeypatch.setattr(module, "_CHUNK", 5 * 311)
    assert all(torch.equal(one, other) for one, other in zip(at_once, columns(), strict=True))
    assert max(sizes) == 5 * 311


def entropy_in_float64(logits):
    """Compute the entropy by definition, over the possible tokens only."""
    possible = [x for x in logits if x != -INF]
    peak = max(possible)
    total = math.fsum(math.exp(x - peak) for x in possible)
    return -math.fsum(math.exp(x - peak) / total * (x - peak - math.log(total)) for x in possible)


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 300.0, 1e4])
@pytest.mark.parametrize("impossible", [0, 1, 5])
def test_entropy_is_the_definition_and_impossible_tokens_add_nothing(scale, impossible):
    generator = torch.Generator().manual_seed(0)
    logits = 50 + scale * torch.randn(20, 7, generator=generator)
    logits[:, :impossible] = -INF
    expected = [entropy_in_float64(row) for row in logits.double().tolist()]
    assert entropy(logits).tolist() == pytest.approx(expected, rel=1e-4, abs=2e-6)
    assert entropy(logits.double()).tolist() == pytest.approx(expected, rel=1e-12, abs=1e-14)


def test_entropy_of_a_certain_position_is_exactly_0():
    assert entropy(torch.tensor([[3.0, -INF, -INF], [-INF, -INF, 0.0]])).tolist() == [0.0, 0.0]
    assert entropy(torch.zeros(1, 8).bfloat16()).dtype == torch.float32


def test_entropy_has_finite_gradients_at_impossible_tokens():
    logits = torch.tensor([[0.0, 1.0, -INF], [2.0, -INF, -INF]], requires_grad=True)
    entropy(logits).sum().backward()
    p = torch.tensor([0.0, 1.0]).softmax(0)
    h = -(p * p.log()).sum()
    torch.testing.assert_close(logits.grad[0], torch.cat([-p * (p.log() + h), torch.zeros(1)]))
    assert logits.grad[1].tolist() == [0.0, 0.0, 0.0]


def test_ranks_are_by_confidence_among_the_given_positions():
    logits = torch.tensor([0.5, 0.9, 0.9, 0.7, 0.2]).logit()
    proposal = Proposal(torch.zeros(1, 5, dtype=torch.long), logits.sigmoid()[None], logits[None])
    positions = torch.tensor([[True, True, True, False, True]])
    assert confidence_rank(proposal, positions).tolist() == [[2, 0, 1, 4, 3]]
    assert confidence_rank(proposal, positions, ascending=True).tolist() == [[1, 2, 3, 4, 0]]


def test_excluded_positions_rank_after_certain_and_impossible_ones():
    log_odds = torch.tensor([[INF, 5.0, -INF]])
    proposal = Proposal(torch.zeros(1, 3, dtype=torch.long), log_odds.sigmoid(), log_odds)
    positions = torch.tensor([[True, False, True]])
    assert confidence_rank(proposal, positions).tolist() == [[0, 2, 1]]
    assert confidence_rank(proposal, positions, ascending=True).tolist() == [[1, 2, 0]]


def test_the_most_confident_position_is_the_one_of_rank_0():
    generator = torch.Generator().manual_seed(0)
    log_odds = torch.randint(-3, 4, (200, 6), generator=generator) / 2000.0  # many ties once rounded
    log_odds = torch.where(torch.rand(200, 6, generator=generator) < 0.2, torch.inf, log_odds)
    log_odds = torch.where(torch.rand(200, 6, generator=generator) < 0.2, -torch.inf, log_odds)
    positions = torch.rand(200, 6, generator=generator) < 0.5
    proposal = Proposal(torch.zeros(200, 6, dtype=torch.long), log_odds.sigmoid(), log_odds)
    expected = positions & (confidence_rank(proposal, positions) == 0)
    assert torch.equal(most_confident(proposal, positions), expected)
    assert torch.equal(expected.sum(1), positions.any(1).long())


def test_ranks_are_those_of_a_stable_sort():
    score = torch.randint(0, 4, (50, 7), generator=torch.Generator().manual_seed(1)).float()
    expected = [[sorted(range(7), key=lambda i: -row[i]).index(i) for i in range(7)] for row in score.tolist()]
    assert descending_rank(score).tolist() == expected
