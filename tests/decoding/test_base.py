from dataclasses import fields

import pytest
import torch

from dmaxlit import UserError
from dmaxlit.decoding import SPDDecoder, ThresholdDecoder
from dmaxlit.decoding.base import BlockState, Decoder, Sampling
from dmaxlit.decoding.proposal import argmax_proposal
from dmaxlit.errors import check_fraction
from dmaxlit.tokens import SoftTokens


def make_state(rows, offset=0, soft=True):
    ids = torch.arange(rows * 3).reshape(rows, 3) + offset
    flags = ids % 2 == 0
    mixture = SoftTokens(ids[..., None] * 2, ids[..., None] / 10, ~flags) if soft else None
    sampling = Sampling(ids / 100, ids[:, 0] / 7, ids[:, 0] / 9) if soft else None
    extra_blocks = torch.stack([ids * 5, ids * 7], 1) if soft else None
    first = ids[:, 0]
    before = ids[:, 0] / 9 if soft else None
    memory = {"seen": ids * 3}
    return BlockState(ids, flags, ~flags, first, flags[:, 0], mixture, extra_blocks, sampling, memory, before)


def tensors(state):
    """Return all tensors of a state, also nested ones."""
    if isinstance(state, torch.Tensor):
        return [state]
    if state is None or isinstance(state, bool):
        return []
    values = state.values() if isinstance(state, dict) else [getattr(state, f.name) for f in fields(state)]
    return [tensor for value in values for tensor in tensors(value)]


def test_states_under_test_have_every_field():
    assert len(tensors(make_state(2))) == len(fields(BlockState)) - 2 + 3 + 3
    assert len(tensors(make_state(2, soft=False))) == 6


@pytest.mark.parametrize("soft", [True, False])
def test_select_takes_rows_of_every_field(soft):
    state = make_state(4, soft=soft)
    selected = state.select(torch.tensor([3, 1]))
    for tensor, whole in zip(tensors(selected), tensors(state), strict=True):
        assert torch.equal(tensor, whole[[3, 1]])


@pytest.mark.parametrize("soft", [True, False])
def test_assign_replaces_rows_of_every_field_and_leaves_the_state_unchanged(soft):
    state, other = make_state(4, soft=soft), make_state(2, offset=101, soft=soft)
    merged = state.assign(torch.tensor([2, 0]), other)
    for new, old, source in zip(tensors(merged), tensors(state), tensors(other), strict=True):
        expected = old.clone()
        expected[2], expected[0] = source[0], source[1]
        assert torch.equal(new, expected)
    for now, before in zip(tensors(state), tensors(make_state(4, soft=soft)), strict=True):
        assert torch.equal(now, before)


def test_advance_counts_the_step_and_keeps_the_memory():
    state = make_state(2)
    after = state.advance(state.ids + 1, state.masked, state.converged)
    assert torch.equal(after.step, state.step + 1)
    assert after.memory is state.memory
    assert after.extra_blocks is state.extra_blocks
    assert after.sampling is state.sampling
    assert after.soft is None
    assert after.editable is state.editable


def test_the_argmax_proposal_is_the_softmax_maximum():
    logits = torch.randn(2, 5, 11, generator=torch.Generator().manual_seed(0)) * 5
    probability, tokens = logits.double().softmax(-1).max(-1)
    best = argmax_proposal(logits)
    assert torch.equal(best.tokens, tokens)
    torch.testing.assert_close(best.confidence, probability.float())


def test_confidence_of_half_precision_logits_is_computed_in_float32():
    logits = torch.randn(1, 4, 2000, generator=torch.Generator().manual_seed(0)).bfloat16()
    confidence = argmax_proposal(logits).confidence
    assert confidence.dtype == torch.float32
    torch.testing.assert_close(confidence, logits.double().softmax(-1).amax(-1).float())


def test_confidence_stays_within_bounds_and_a_tie_goes_to_the_smallest_id():
    certain = torch.tensor([200.0, -200.0, -torch.inf])
    tie = torch.tensor([-torch.inf, 3.0, 3.0])
    best = argmax_proposal(torch.stack([certain, tie])[None])
    assert best.tokens.tolist() == [[0, 1]]
    assert best.confidence.tolist() == [[1.0, 0.5]]


def test_a_decoder_of_ones_own_may_read_the_progress_of_the_block_before():
    assert type("OwnDecoder", (SPDDecoder,), {})().reads_progress
    assert not SPDDecoder().reads_progress


@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan")])
def test_a_fraction_outside_its_range_is_refused(value):
    with pytest.raises(UserError, match=r"tau: expected a number in \[0, 1\], got"):
        check_fraction("tau", value)


def test_a_decoder_shows_its_options():
    class Plain(Decoder):
        def step(self, state, logits, special):
            return state

    class Passing(ThresholdDecoder):
        def __init__(self, mine, **options):
            super().__init__(**options)
            self.mine = mine

    assert repr(ThresholdDecoder(0.5)) == "ThresholdDecoder(threshold=0.5, max_tokens=None, tau_semi=0.0)"
    assert repr(Plain(max_steps=3)) == "Plain(max_steps=3)"
    assert repr(Plain()) == "Plain()"
    assert repr(Passing(mine=2, threshold=0.5, max_steps=3)) == (
        "Passing(mine=2, threshold=0.5, max_tokens=None, tau_semi=0.0, max_steps=3)"
    )
