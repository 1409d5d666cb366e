import math

import pytest
import torch

from dmaxlit import UserError
from dmaxlit.decoding import EditDecoder, T2MDecoder, ThresholdDecoder
from tests.decoding.logits import fresh, run
from tests.engine.scripted import SPECIAL

M = SPECIAL.mask_id


def distribution(row):
    weights = [math.exp(x) for x in row]
    return [w / sum(weights) for w in weights]


def reference(steps, detector, tau_mask, tau_remask, max_share, max_remasks):
    """Yield the block and whether it is done after each forward, one position after the other."""
    length, previous = len(steps[0]), None
    block, counts = [M] * length, [0] * length
    for step in steps:
        p = [distribution(row) for row in step.tolist()]
        before = list(block)
        masks = [i for i in range(length) if before[i] == M]
        surest = max(masks, key=lambda i: max(p[i])) if masks else None
        for i in masks:
            if i == surest or max(p[i]) > tau_mask:
                block[i] = p[i].index(max(p[i]))
        doubts = []
        for i in range(length):
            token, best = before[i], max(p[i])
            if token == M or counts[i] == max_remasks:
                continue
            if detector == "low_probability":
                is_doubtful, doubt = p[i][token] < tau_remask, -p[i][token]
            elif detector == "mirrored":
                is_doubtful, doubt = best > tau_remask and p[i].index(best) != token, best
            else:
                doubt = abs(p[i][token] - previous[i][token])
                is_doubtful = doubt > tau_remask
            doubts += [(-doubt, i)] if is_doubtful else []
        most = max(1, int(max_share * (length - len(masks))))
        remasked = [i for _, i in sorted(doubts)[:most]]
        for i in remasked:
            block[i] = M
            counts[i] += 1
        previous = p
        yield list(block), not masks and not remasked


@pytest.mark.parametrize(
    ("detector", "tau_remask"), [("low_probability", 0.4), ("mirrored", 0.5), ("change", 0.25), ("change", 0.6)]
)
@pytest.mark.parametrize(("max_share", "max_remasks"), [(0.25, 2), (1.0, 1), (0.5, 0)])
def test_it_is_the_rule_position_by_position(detector, tau_remask, max_share, max_remasks):
    decoder, remasked = T2MDecoder(detector, 0.6, tau_remask, max_share, max_remasks), 0
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        state, steps, ours = fresh(decoder, 8), [], []
        while not state.converged.all() and len(steps) < 40:
            logits = 3 * torch.randn(8, SPECIAL.vocab_size, generator=generator)
            logits[:, M] = -torch.inf
            steps.append(logits)
            state = decoder.step(state, logits[None], SPECIAL)
            ours.append((state.ids[0].tolist(), bool(state.converged)))
        assert ours == list(reference(steps, detector, 0.6, tau_remask, max_share, max_remasks))
        assert state.converged.all()
        assert state.memory["remasks"].max() <= max_remasks
        remasked += int(state.memory["remasks"].sum())
    assert bool(remasked) == bool(max_remasks)


SURE = [(1, 0.9), (2, 0.9), (3, 0.9), (4, 0.9)]


def states_of(*steps, **options):
    decoder = T2MDecoder(**options)
    return [state.ids.tolist()[0] for state in run(decoder, fresh(decoder), *steps)]


def test_each_detector_doubts_for_its_own_reason():
    unsure = [(5, 0.45), (2, 0.95), (3, 0.9), (4, 0.9)]  # another token, not confident
    other = [(1, 0.9), (6, 0.95), (3, 0.9), (4, 0.9)]  # another token, confident
    less = [(1, 0.9), (2, 0.9), (3, 0.55), (4, 0.9)]  # the same token, less confident
    assert [states_of(SURE, step)[1] for step in (unsure, other, less)] == [[M, 2, 3, 4], [1, M, 3, 4], [1, 2, 3, 4]]
    options = {"detector": "mirrored"}
    after = [states_of(SURE, step, **options)[1] for step in (unsure, other, less)]
    assert after == [[1, 2, 3, 4], [1, M, 3, 4], [1, 2, 3, 4]]
    options = {"detector": "change"}
    after = [states_of(SURE, step, **options)[1] for step in (unsure, other, less)]
    assert after == [[M, 2, 3, 4], [1, M, 3, 4], [1, 2, M, 4]]


def test_mirrored_remasks_what_edit_overwrites():
    decoder = EditDecoder(tau_mask=0.7, tau_edit=0.9)
    other = [(1, 0.9), (6, 0.95), (3, 0.9), (7, 0.89)]
    states = run(decoder, fresh(decoder), SURE, other)
    assert states[1].ids.tolist()[0] == [1, 6, 3, 4]
    assert states_of(SURE, other, detector="mirrored")[1] == [1, M, 3, 4]


def test_the_most_doubtful_share_of_the_visible_tokens_is_remasked():
    doubtful = [(5, 0.6), (6, 0.95), (3, 0.1), (7, 0.99)]
    assert states_of(SURE, doubtful)[1] == [1, 2, 3, M]
    assert states_of(SURE, doubtful, max_share=0.5)[1] == [1, M, 3, M]
    assert states_of(SURE, doubtful, max_share=0.0)[1] == [1, 2, 3, M]
    assert states_of(SURE, doubtful, max_share=1.0)[1] == [M, M, M, M]


def test_a_token_filled_just_now_is_not_doubted_yet():
    low = [(1, 0.3), (2, 0.2), (3, 0.2), (4, 0.2)]
    assert states_of(low, low) == [[1, M, M, M], [M, 2, M, M]]


def test_a_position_is_remasked_a_few_times_only():
    low = [(1, 0.45)]
    decoder = T2MDecoder(max_remasks=2)
    states = run(decoder, fresh(decoder, 1), *[low] * 6)
    assert [state.ids.item() for state in states] == [1, M, 1, M, 1, 1]
    assert [bool(state.converged) for state in states] == [False] * 5 + [True]


def test_the_prompt_is_not_doubted():
    decoder = T2MDecoder(max_share=1.0)
    states = run(decoder, fresh(decoder, prompt=(5,)), [(1, 0.9), *SURE[1:]], [(1, 0.9), *SURE[1:]])
    assert states[1].ids.tolist() == [[5, 2, 3, 4]]
    assert states[1].converged.all()


def test_without_remasks_it_is_threshold_decoding_and_one_forward_to_see_it():
    steps = [[(1, 0.9), (2, 0.3), (3, 0.8), (4, 0.2)], [(5, 0.9), (2, 0.75), (6, 0.9), (4, 0.8)]]
    plain, ours = ThresholdDecoder(0.7), T2MDecoder(max_remasks=0)
    theirs, own = run(plain, fresh(plain), *steps), run(ours, fresh(ours), *steps, steps[0])
    assert [state.ids.tolist() for state in own[:2]] == [state.ids.tolist() for state in theirs]
    assert [bool(state.converged) for state in own] == [False, False, True]


@pytest.mark.parametrize(("detector", "tau_remask"), [("low_probability", 0.5), ("mirrored", 0.9), ("change", 0.3)])
def test_the_published_thresholds_are_the_defaults(detector, tau_remask):
    decoder = T2MDecoder(detector)
    assert (decoder.tau_remask, decoder.max_share, decoder.max_remasks) == (tau_remask, 0.25, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"detector": "hope"}, "detector: expected 'low_probability', 'mirrored' or 'change', got 'hope'"),
        ({"tau_mask": 1.5}, r"tau_mask: expected a number in \[0, 1\], got 1.5"),
        ({"tau_remask": -1.0}, r"tau_remask: expected a number in \[0, 1\], got -1.0"),
        ({"max_share": 2.0}, r"max_share: expected a number in \[0, 1\], got 2.0"),
        ({"max_remasks": -1}, "max_remasks: expected at least 0, got -1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        T2MDecoder(**options)
