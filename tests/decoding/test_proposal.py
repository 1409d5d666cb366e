"""The quick way to the most probable token is the plain one, and masks and numbers that are none are no trouble."""

import math

import pytest
import torch

from dmaxlit.decoding import proposal as code
from dmaxlit.decoding.proposal import argmax_proposal, scatter_proposal, score_tokens

INF, NAN = math.inf, math.nan


def slow(logits):
    """Of one position: the first of the highest, and log(p / (1 - p)) in double precision."""
    best = max(range(len(logits)), key=lambda token: (logits[token], -token))
    others = [x - logits[best] for token, x in enumerate(logits) if token != best]
    peak = max(others)
    return best, -(peak + math.log(sum(math.exp(x - peak) for x in others)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 30.0, 300.0])
@pytest.mark.parametrize("piece", [2**20, 12])
def test_tokens_and_log_odds_are_those_of_a_plain_loop(monkeypatch, dtype, scale, piece):
    monkeypatch.setattr(code, "_PIECE", piece)
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(3, 4, 6, generator=generator) * scale).to(dtype)
    logits[0, 0, 2] = -INF
    logits[2, 2] = torch.tensor([5.0, 9, 9, 1, 0, 9])
    found = argmax_proposal(logits)
    for row in range(3):
        for position in range(4):
            token, log_odds = slow(logits[row, position].double().tolist())
            assert int(found.tokens[row, position]) == token
            assert float(found.log_odds[row, position]) == pytest.approx(log_odds, rel=1e-4, abs=1e-4)


def test_very_sure_positions_keep_their_order():
    logits = torch.zeros(4, 5)
    logits[:, 1] = torch.tensor([119.0, 120.0, 300.0, 50.0])
    assert argmax_proposal(logits).log_odds.argsort().tolist() == [3, 0, 1, 2]
    torch.testing.assert_close(argmax_proposal(logits).log_odds, score_tokens(logits, logits.argmax(-1)).log_odds)


@pytest.mark.parametrize("row", [[-INF] * 4, [NAN] * 4, [NAN, 1.0, 2.0, 0.0], [1.0, -INF, -INF, -INF]])
def test_impossible_tokens_and_what_is_no_number(row):
    logits = torch.tensor([row, [0.0, 3.0, 1.0, 2.0]])
    quick, plain = argmax_proposal(logits), score_tokens(logits, logits.argmax(-1))
    assert not quick.confidence.isnan().any()
    torch.testing.assert_close(quick.confidence, plain.confidence)
    torch.testing.assert_close(quick.log_odds, plain.log_odds)
    assert torch.equal(quick.tokens, plain.tokens)


def test_proposals_are_put_where_they_are():
    where = torch.tensor([[True, False, True], [False, False, True]])
    logits = torch.randn(3, 7)
    put, some = scatter_proposal(argmax_proposal(logits), where), argmax_proposal(logits)
    for field in range(3):
        assert torch.equal(put[field][where], some[field])
    assert (put.tokens[~where] == 0).all()
    assert (put.confidence[~where] == 0).all()
    assert (put.log_odds[~where] == -INF).all()
