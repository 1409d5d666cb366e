"""Every rule of SPD, on logits with known probabilities."""

import pytest
import torch

from dmaxlit import UserError
from dmaxlit.decoding import SPDDecoder, promote
from tests.decoding.logits import fresh, logits_of, run
from tests.engine.scripted import SPECIAL

M = SPECIAL.mask_id


def first_block(step, **options):
    decoder = SPDDecoder(**options)
    return run(decoder, fresh(decoder, len(step)), step)[0].ids.tolist()[0]


# ---- promotion ------------------------------------------------------------------------------------------------------


def test_the_confident_prefix_is_promoted_and_not_what_comes_after_a_gap():
    step = [(1, 0.9), (2, 0.6), (3, 0.4), (4, 0.95)]
    assert first_block(step, tau_dec=0.5) == [1, 2, M, M]


def test_without_contiguous_every_confident_mask_is_promoted():
    step = [(1, 0.9), (2, 0.4), (3, 0.6), (4, 0.95)]
    assert first_block(step, tau_dec=0.5, contiguous=False) == [1, M, 3, 4]


@pytest.mark.parametrize("contiguous", [True, False])
def test_the_leftmost_mask_is_promoted_if_none_is_confident(contiguous):
    step = [(1, 0.2), (2, 0.3), (3, 0.4), (4, 0.4)]
    assert first_block(step, tau_dec=0.5, contiguous=contiguous) == [1, M, M, M]


def test_an_unsure_leftmost_mask_is_promoted_alone():
    assert first_block([(1, 0.2), (2, 0.9), (3, 0.9)], tau_dec=0.5) == [1, M, M]


def test_without_contiguous_an_unsure_leftmost_mask_is_promoted_too():
    assert first_block([(1, 0.2), (2, 0.3), (3, 0.9)], tau_dec=0.5, contiguous=False) == [1, M, 3]


def test_the_prefix_begins_at_the_first_mask_whatever_the_tokens_before_it():
    decoder = SPDDecoder(tau_dec=0.5)
    first = [(1, 0.9), (2, 0.3), (3, 0.3), (4, 0.3)]
    second = [(1, 0.2), (2, 0.9), (3, 0.8), (4, 0.3)]
    states = run(decoder, fresh(decoder), first, second)
    assert states[0].ids.tolist() == [[1, M, M, M]]
    assert states[1].ids.tolist() == [[1, 2, 3, M]]


def test_unsure_prompt_positions_do_not_cut_the_prefix():
    decoder = SPDDecoder(tau_dec=0.5)
    (state,) = run(decoder, fresh(decoder, prompt=(5, M)), [(1, 0.2), (2, 0.2), (3, 0.9), (4, 0.9)])
    assert state.ids.tolist() == [[5, M, 3, 4]]


def test_zero_promotes_the_whole_block_and_one_a_single_position():
    unsure, certain = [(1, 0.2), (2, 0.15), (3, 0.3)], [(1, 1.0), (2, 1.0), (3, 1.0)]
    assert first_block(unsure, tau_dec=0.0) == [1, 2, 3]
    assert first_block(certain, tau_dec=1.0) == [1, M, M]
    assert first_block(certain, tau_dec=1.0, contiguous=False) == [1, M, M]


def test_a_confidence_equal_to_tau_dec_is_not_above_it():
    two_way = torch.full((1, 3, SPECIAL.vocab_size), -torch.inf)
    two_way[..., :2] = 0.0
    for tau_dec, promoted in ((0.5, 1), (0.4999, 3)):
        decoder = SPDDecoder(tau_dec=tau_dec)
        state = decoder.step(fresh(decoder, 3), two_way, SPECIAL)
        assert int((~state.masked).sum()) == promoted


def promoted_positions(masked, confidence, tau_dec, contiguous):
    """Apply the rule on lists: walk along the masks; if only a prefix counts, stop at the first below the threshold."""
    masks = [i for i, is_mask in enumerate(masked) if is_mask]
    positions = set(masks[:1])
    for i in masks:
        if confidence[i] > tau_dec[i]:
            positions.add(i)
        elif contiguous:
            break
    return positions


@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("per_row", [True, False])
def test_promote_is_the_rule_on_lists(contiguous, per_row):
    generator = torch.Generator().manual_seed(0)
    masked = torch.rand(200, 6, generator=generator) < 0.6
    confidence = torch.rand(200, 6, generator=generator)
    tau_dec = torch.rand(200, 1, generator=generator) if per_row else torch.full((200, 1), 0.4)
    arguments = masked.clone(), confidence.clone()
    promoted = promote(masked, confidence, tau_dec if per_row else 0.4, contiguous)
    for row in range(200):
        expected = promoted_positions(masked[row], confidence[row], tau_dec[row].expand(6), contiguous)
        assert set(promoted[row].nonzero().flatten().tolist()) == expected
    assert torch.equal(masked, arguments[0])
    assert torch.equal(confidence, arguments[1])


# ---- revision -------------------------------------------------------------------------------------------------------


def test_every_token_is_predicted_again_however_unsure_and_masks_stay():
    decoder = SPDDecoder(tau_dec=0.5)
    states = run(
        decoder,
        fresh(decoder),
        [(1, 0.9), (2, 0.9), (3, 0.3), (4, 0.3)],
        [(5, 0.2), (2, 0.9), (3, 0.3), (6, 0.4)],
    )
    assert states[1].ids.tolist() == [[5, 2, 3, M]]


# ---- convergence ----------------------------------------------------------------------------------------------------

UNSURE = [(1, 0.6), (2, 0.7), (3, 0.6)]
SURE = [(1, 0.95), (2, 0.97), (3, 0.99)]


def converged(*steps, **options):
    decoder = SPDDecoder(**options)
    return [bool(state.converged) for state in run(decoder, fresh(decoder, len(steps[0])), *steps)]


def test_repeated_predictions_converge():
    assert converged(UNSURE, UNSURE) == [False, True]


def test_one_changed_prediction_is_one_more_step():
    other = [(1, 0.6), (4, 0.7), (3, 0.6)]
    assert converged(UNSURE, other, other) == [False, False, True]


def test_repetition_does_not_count_while_a_mask_is_left():
    slow = [(1, 0.6), (2, 0.3), (3, 0.3)]
    assert converged(slow, slow, slow, slow) == [False, False, False, True]


def test_a_position_promoted_just_now_has_changed():
    last_mask = [(1, 0.6), (2, 0.6), (3, 0.3)]
    assert converged(last_mask, last_mask, last_mask) == [False, False, True]


def test_alternating_predictions_do_not_converge():
    other = [(1, 0.6), (4, 0.7), (3, 0.6)]
    assert converged(*[UNSURE, other] * 3) == [False] * 6
    assert SPDDecoder().max_steps(3) == 6


def test_confident_predictions_converge_at_once():
    assert converged(SURE) == [True]


def test_confident_predictions_converge_though_they_changed():
    assert converged(UNSURE, [(5, 0.95), (2, 0.97), (6, 0.99)]) == [False, True]


def test_one_confidence_below_tau_acc_does_not_converge():
    assert converged([*SURE[:2], (3, 0.89)]) == [False]
    assert converged([*SURE[:2], (3, 0.89)], tau_acc=0.88) == [True]


def test_a_confidence_equal_to_tau_acc_is_enough():
    two_way = torch.full((1, 3, SPECIAL.vocab_size), -torch.inf)
    two_way[..., :2] = 0.0
    for tau_acc, expected in ((0.5, True), (0.5001, False)):
        decoder = SPDDecoder(tau_dec=0.0, tau_acc=tau_acc)
        assert bool(decoder.step(fresh(decoder, 3), two_way, SPECIAL).converged) is expected


def test_confidence_does_not_end_a_block_that_has_masks():
    assert converged(SURE, SURE, SURE, tau_dec=0.98, tau_acc=0.5) == [False, False, True]


def test_unsure_or_changing_prompt_positions_do_not_matter():
    decoder = SPDDecoder()
    state = fresh(decoder, 3, prompt=(5,))
    assert run(decoder, state, [(1, 0.2), *SURE[1:]])[-1].converged.all()
    assert run(decoder, state, [(1, 0.2), *UNSURE[1:]], [(4, 0.3), *UNSURE[1:]])[-1].converged.all()


def test_each_rule_can_be_switched_off():
    assert converged(UNSURE, UNSURE, UNSURE, SURE, stop_on_consistency=False) == [False, False, False, True]
    assert converged(SURE, SURE, stop_on_confidence=False) == [False, True]


# ---- what is fed next -----------------------------------------------------------------------------------------------


def test_tokens_are_fed_as_mixtures_with_the_mask_and_masks_as_they_are():
    decoder = SPDDecoder(tau_dec=0.5)
    (state,) = run(decoder, fresh(decoder, prompt=(5,)), [(1, 0.9), (2, 0.75), (3, 0.6), (4, 0.3)])
    assert state.soft.where.tolist() == [[False, True, True, False]]
    assert state.soft.ids[0, 1].tolist() == [2, M]
    assert state.soft.ids[0, 2].tolist() == [3, M]
    torch.testing.assert_close(state.soft.weights[0, 1:3], torch.tensor([[0.75, 0.25], [0.6, 0.4]]))


def test_a_revised_token_is_fed_with_its_new_confidence():
    decoder = SPDDecoder(tau_dec=0.0)
    state = run(decoder, fresh(decoder, 1), [(1, 0.8)], [(2, 0.6)])[-1]
    assert state.soft.ids.tolist() == [[[2, M]]]
    torch.testing.assert_close(state.soft.weights, torch.tensor([[[0.6, 0.4]]]))


def test_more_candidates_share_the_mixture_by_probability():
    decoder = SPDDecoder(tau_dec=0.0, top_k=3)
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05, 0, 0, 0, 0, 0, 0]).log().reshape(1, 1, -1)
    state = decoder.step(fresh(decoder, 1), logits, SPECIAL)
    assert state.ids.tolist() == [[0]]
    assert state.soft.ids.tolist() == [[[0, 1, 2, M]]]
    torch.testing.assert_close(state.soft.weights, torch.tensor([[[0.5, 0.3, 0.15, 0.05]]]))


def test_the_weights_are_the_same_on_a_line_and_on_an_arc():
    step = [(1, 0.9), (2, 0.75), (3, 0.3), (4, 0.3)]
    states = {}
    for soft in (True, "linear", "slerp"):
        decoder = SPDDecoder(soft=soft)
        (states[soft],) = run(decoder, fresh(decoder), step)
        assert torch.equal(states[soft].soft.weights, states[True].soft.weights)
    assert [state.soft.slerp for state in states.values()] == [False, False, True]


def test_hard_tokens_are_fed_as_they_are():
    decoder = SPDDecoder(soft=False, top_k=3)
    (state,) = run(decoder, fresh(decoder), [(1, 0.9), (2, 0.75), (3, 0.3), (4, 0.3)])
    assert state.soft is None
    assert state.ids.tolist() == [[1, 2, M, M]]


# ---- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau_dec": 1.5}, r"tau_dec: expected a number in \[0, 1\], got 1.5"),
        ({"tau_acc": -0.5}, r"tau_acc: expected a number in \[0, 1\], got -0.5"),
        ({"soft": "cubic"}, "soft: expected bool or 'linear' or 'slerp', got 'cubic'"),
        ({"top_k": 0}, "top_k: expected at least 1, got 0"),
        (
            {"stop_on_consistency": False, "stop_on_confidence": False},
            "stop_on_consistency, stop_on_confidence: expected at least one",
        ),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        SPDDecoder(**options)


def test_more_candidates_than_tokens_are_refused():
    with pytest.raises(UserError, match="top_k: expected less than the vocabulary's 10 tokens, got 10"):
        fresh(SPDDecoder(top_k=10))


def test_the_paper_s_thresholds_are_the_defaults():
    decoder = SPDDecoder()
    assert (decoder.tau_dec, decoder.tau_acc, decoder.top_k) == (0.5, 0.9, 1)
    assert decoder.contiguous
    assert decoder.soft


def test_rows_of_a_batch_follow_their_own_rules():
    decoder = SPDDecoder()
    state = decoder.start(torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 3, dtype=torch.bool), SPECIAL)
    after = decoder.step(state, logits_of(SURE, [(1, 0.2), (2, 0.9), (3, 0.9)]), SPECIAL)
    assert after.ids.tolist() == [[1, 2, 3], [1, M, M]]
    assert after.converged.tolist() == [True, False]
