from dataclasses import replace

import pytest
import torch

from dmaxlit import UserError
from dmaxlit.decoding import ThresholdDecoder
from tests.decoding.logits import fresh, logits_of, run
from tests.engine.scripted import SPECIAL

M = SPECIAL.mask_id


def test_positions_above_the_threshold_are_committed_wherever_they_are():
    (state,) = run(ThresholdDecoder(0.6), fresh(ThresholdDecoder()), [(1, 0.5), (2, 0.7), (3, 0.55), (4, 0.95)])
    assert state.ids.tolist() == [[M, 2, M, 4]]
    assert state.masked.tolist() == [[True, False, True, False]]
    assert not state.converged.any()


def test_the_most_confident_is_committed_if_none_is_above():
    (state,) = run(ThresholdDecoder(0.9), fresh(ThresholdDecoder()), [(1, 0.3), (2, 0.5), (3, 0.7), (4, 0.6)])
    assert state.ids.tolist() == [[M, M, 3, M]]


def test_a_tie_for_the_most_confident_goes_left():
    (state,) = run(ThresholdDecoder(0.9), fresh(ThresholdDecoder()), [(1, 0.3), (2, 0.5), (3, 0.5), (4, 0.5)])
    assert state.ids.tolist() == [[M, 2, M, M]]


def test_the_most_confident_prompt_position_does_not_count():
    (state,) = run(
        ThresholdDecoder(0.9), fresh(ThresholdDecoder(), prompt=(5,)), [(1, 0.8), (2, 0.3), (3, 0.5), (4, 0.4)]
    )
    assert state.ids.tolist() == [[5, M, 3, M]]


def test_equality_is_not_above():
    two_way = torch.full((1, 4, SPECIAL.vocab_size), -torch.inf)
    two_way[..., :2] = 0.0
    for threshold, committed in ((0.5, 1), (0.4999, 4)):
        decoder = ThresholdDecoder(threshold)
        state = decoder.step(fresh(decoder), two_way, SPECIAL)
        assert int((~state.masked).sum()) == committed


def test_zero_commits_the_whole_block_at_once():
    decoder = ThresholdDecoder(0.0)
    (state,) = run(decoder, fresh(decoder), [(1, 0.2), (2, 0.15), (3, 0.2), (4, 0.9)])
    assert state.ids.tolist() == [[1, 2, 3, 4]]
    assert state.converged.all()


def test_one_commits_one_token_a_forward_also_where_the_model_is_certain():
    decoder = ThresholdDecoder(1.0)
    certain = [(1, 1.0), (2, 1.0), (3, 1.0), (4, 1.0)]
    states = run(decoder, fresh(decoder), certain, certain, certain, certain)
    assert [int(state.masked.sum()) for state in states] == [3, 2, 1, 0]
    assert [bool(state.converged) for state in states] == [False, False, False, True]


def test_at_most_max_tokens_are_committed_the_most_confident_first():
    decoder = ThresholdDecoder(0.5, max_tokens=2)
    (state,) = run(decoder, fresh(decoder, 5), [(1, 0.6), (2, 0.9), (3, 0.55), (4, 0.8), (5, 0.3)])
    assert state.ids.tolist() == [[M, 2, M, 4, M]]


def test_a_committed_token_is_never_revised():
    decoder = ThresholdDecoder(0.6)
    states = run(decoder, fresh(decoder, 2), [(1, 0.9), (2, 0.5)], [(3, 0.99), (4, 0.99)])
    assert states[0].ids.tolist() == [[1, M]]
    assert states[1].ids.tolist() == [[1, 4]]


def test_committed_confidence_does_not_block_the_next_forced_token():
    decoder = ThresholdDecoder(0.6)
    states = run(decoder, fresh(decoder, 3), [(1, 0.9), (2, 0.5), (2, 0.5)], [(1, 0.99), (3, 0.3), (4, 0.4)])
    assert states[1].ids.tolist() == [[1, M, 4]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.5}, r"threshold: expected a number in \[0, 1\], got 1.5"),
        ({"threshold": -0.1}, r"threshold: expected a number in \[0, 1\], got -0.1"),
        ({"max_tokens": 0}, "max_tokens: expected at least 1, got 0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        ThresholdDecoder(**options)


def test_handmade_logits_have_the_probabilities_they_claim():
    probability = logits_of([(1, 0.6), (2, 1.0)]).softmax(-1)
    torch.testing.assert_close(probability[0, 0, 1], torch.tensor(0.6))
    assert probability[0, 1, 2] == 1


@pytest.mark.parametrize(("progress", "committed"), [(None, 1), (1.0, 1), (0.75, 1), (0.5, 0)])
def test_a_block_without_a_confident_position_waits_for_the_one_before(progress, committed):
    decoder = ThresholdDecoder(0.9, tau_semi=0.75)
    state = fresh(decoder)
    if progress is not None:
        state = replace(state, progress_before=torch.tensor([progress]))
    (after,) = run(decoder, state, [(1, 0.3), (2, 0.5), (3, 0.7), (4, 0.6)])
    assert int((~after.masked).sum()) == committed
    (confident,) = run(decoder, state, [(1, 0.3), (2, 0.95), (3, 0.7), (4, 0.6)])
    assert confident.ids.tolist() == [[M, 2, M, M]]


def test_the_share_of_the_block_before_is_computed_only_for_a_decoder_that_reads_it():
    assert ThresholdDecoder(tau_semi=0.5).reads_progress
    assert not ThresholdDecoder().reads_progress
    assert type("OwnDecoder", (ThresholdDecoder,), {})().reads_progress


def test_the_share_of_the_block_before_is_a_fraction():
    with pytest.raises(UserError, match=r"tau_semi: expected a number in \[0, 1\], got 1.5"):
        ThresholdDecoder(tau_semi=1.5)
