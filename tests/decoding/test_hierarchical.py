import random

import pytest

from dmaxlit import UserError
from dmaxlit.decoding import HierarchicalDecoder
from tests.decoding.logits import fresh, logits_of, run
from tests.engine.scripted import SPECIAL

M = SPECIAL.mask_id


def reference_step(block, predicted, belief, high, low, remask):
    """Take a step on lists: block, (token, confidence) and the probability of each block token."""
    remasked = [i for i, t in enumerate(block) if t != M and belief[i] < remask]
    open_positions = {i for i, t in enumerate(block) if t == M} | set(remasked)
    order = sorted(open_positions, key=lambda i: (-predicted[i][1], i))
    commit = {i for i in open_positions if predicted[i][1] > high}
    run_positions = []
    for i in range(len(block) + 1):
        if i in open_positions:
            run_positions.append(i)
        elif run_positions:
            best = min(run_positions, key=order.index)
            if predicted[best][1] > low:
                commit.add(best)
            run_positions = []
    commit |= set(order[: len(remasked) + 1])
    return [predicted[i][0] if i in commit else M if i in open_positions else t for i, t in enumerate(block)]


def test_every_run_of_masks_commits_its_best():
    decoder = HierarchicalDecoder(0.9, 0.4)
    first, second, third = run(
        decoder,
        fresh(decoder, 7),
        [(1, 0.5), (2, 0.6), (3, 0.2), (4, 0.95), (5, 0.3), (6, 0.45), (7, 0.41)],
        [(1, 0.5), (2, 0.6), (3, 0.2), (0, 0.2), (5, 0.3), (6, 0.45), (7, 0.41)],
        [(1, 0.5), (0, 0.1), (3, 0.45), (0, 0.2), (5, 0.3), (0, 0.45), (7, 0.41)],
    )
    assert first.ids.tolist() == [[M, M, M, 4, M, M, M]]  # one run; it has a sure position
    assert second.ids.tolist() == [[M, 2, M, 4, M, 6, M]]  # two runs
    assert third.ids.tolist() == [[1, 2, 3, 4, M, 6, 7]]  # four; one best is below the lower threshold


def test_something_is_committed_also_below_the_lower_threshold():
    decoder = HierarchicalDecoder(0.9, 0.4)
    (state,) = run(decoder, fresh(decoder), [(1, 0.2), (2, 0.3), (3, 0.25), (4, 0.2)])
    assert state.ids.tolist() == [[M, 2, M, M]]


@pytest.mark.parametrize("remask", [0.0, 0.4, 0.8])
def test_steps_are_those_of_the_rule_on_lists(remask):
    rng = random.Random(0)
    for _ in range(25):
        decoder = HierarchicalDecoder(0.8, 0.35, remask)
        state, block = fresh(decoder, 8), [M] * 8
        for _ in range(8):
            predicted = [(rng.randint(0, 6), round(rng.uniform(0.2, 0.99), 3)) for _ in range(8)]
            logits = logits_of(predicted)
            probability = logits[0].softmax(-1)
            belief = [1.0 if t == M else float(probability[i, t]) for i, t in enumerate(block)]
            block = reference_step(block, predicted, belief, 0.8, 0.35, remask)
            before = int(state.masked.sum())
            state = decoder.step(state, logits, SPECIAL)
            assert state.ids.tolist()[0] == block
            assert int(state.masked.sum()) < before
            if state.converged.all():
                break
        assert state.converged.all()


def test_a_token_no_longer_believed_turns_back_into_a_mask():
    decoder = HierarchicalDecoder(0.9, 0.4, tau_remask=0.5)
    first, second = run(
        decoder,
        fresh(decoder, 3),
        [(1, 0.95), (2, 0.3), (3, 0.3)],
        [(5, 0.6), (2, 0.95), (3, 0.95)],  # the first token now has 0.05; its position is the least sure
    )
    assert first.ids.tolist() == [[1, M, M]]
    assert second.ids.tolist() == [[M, 2, 3]]


def test_options_out_of_order_are_refused():
    with pytest.raises(UserError, match=r"tau_low: expected at most tau_high \(0.3\), got 0.4"):
        HierarchicalDecoder(0.3, 0.4)
