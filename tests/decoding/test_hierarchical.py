import random
from dataclasses import replace

import pytest
import torch

from dmaxlit import UserError
from dmaxlit.decoding import HierarchicalDecoder
from dmaxlit.decoding.base import Sampling
from tests.decoding.logits import fresh, logits_of, run
from tests.engine.scripted import SPECIAL

M = SPECIAL.mask_id


def reference_step(block, predicted, high, low, remask):
    """Take a step on lists: block, and each position's most probable token with its probability."""
    remasked = [i for i, t in enumerate(block) if t != M and predicted[i][1] < remask]
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
    for i in order:
        if len(commit) > len(remasked):
            break
        commit.add(i)
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
            block = reference_step(block, predicted, 0.8, 0.35, remask)
            before = int(state.masked.sum())
            state = decoder.step(state, logits, SPECIAL)
            assert state.ids.tolist()[0] == block
            assert int(state.masked.sum()) < before
            if state.converged.all():
                break
        assert state.converged.all()


def test_a_position_no_longer_sure_of_any_token_turns_back_into_a_mask():
    decoder = HierarchicalDecoder(0.9, 0.4, tau_remask=0.5)
    first, second = run(
        decoder,
        fresh(decoder, 3),
        [(1, 0.95), (2, 0.3), (3, 0.3)],
        [(5, 0.3), (2, 0.95), (3, 0.95)],
    )
    assert first.ids.tolist() == [[1, M, M]]
    assert second.ids.tolist() == [[M, 2, 3]]


def test_a_position_sure_of_another_token_keeps_its_token():
    decoder = HierarchicalDecoder(0.9, 0.4, tau_remask=0.5)
    _, second = run(
        decoder,
        fresh(decoder, 3),
        [(1, 0.95), (2, 0.3), (3, 0.3)],
        [(5, 0.8), (2, 0.95), (3, 0.95)],  # token 1 has less than 0.2
    )
    assert second.ids.tolist() == [[1, 2, 3]]


def test_nothing_is_committed_on_top_of_enough():
    decoder = HierarchicalDecoder(0.9, 0.3, tau_remask=0.5)
    _, second = run(
        decoder,
        fresh(decoder, 7),
        [(1, 0.2), (2, 0.2), (3, 0.95), (4, 0.2), (5, 0.2), (6, 0.95), (7, 0.2)],
        # Position 2 turns back. The three runs are 0..4 and 6; their best, 0 and 6, are enough for one re-masked
        # position. Position 1 is surer than 6, but the best of no run.
        [(1, 0.48), (2, 0.47), (3, 0.2), (4, 0.2), (5, 0.2), (6, 0.95), (7, 0.45)],
    )
    assert second.ids.tolist() == [[1, M, M, M, M, 6, 7]]


def test_at_a_temperature_the_largest_probability_decides_not_that_of_the_drawn_token():
    decoder = HierarchicalDecoder(0.9, 0.4, tau_remask=0.5)
    state = replace(
        fresh(decoder, 2),
        ids=torch.tensor([[1, M]]),
        masked=torch.tensor([[False, True]]),
        sampling=Sampling(torch.full((1, 2), 0.999), torch.tensor([1.0]), torch.tensor([1.0])),
    )
    state = decoder.step(state, logits_of([(1, 0.8), (2, 0.8)]), SPECIAL)
    assert state.ids[0, 0] == 1


def test_options_out_of_order_are_refused():
    with pytest.raises(UserError, match=r"tau_low: expected at most tau_high \(0.3\), got 0.4"):
        HierarchicalDecoder(0.3, 0.4)
