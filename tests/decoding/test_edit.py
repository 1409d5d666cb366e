import random

import pytest

from dmaxlit import UserError
from dmaxlit.decoding import EditDecoder
from tests.decoding.logits import fresh, logits_of, run
from tests.engine.scripted import SPECIAL

M = SPECIAL.mask_id


def reference(steps, mask, edit, post_steps):
    block, post = [M] * len(steps[0]), 0
    for step in steps:
        had_masks = M in block
        post += not had_masks
        best = max((i for i in range(len(block)) if block[i] == M), key=lambda i: (step[i][1], -i), default=None)
        after = list(block)
        for i, (token, confidence) in enumerate(step):
            fill = block[i] == M and (confidence > mask or i == best)
            rewrite = block[i] not in (M, token) and confidence > edit
            after[i] = token if fill or rewrite else block[i]
        done = M not in after and (after == block or post >= post_steps)
        block = after
        yield block, done
        if done:
            return


@pytest.mark.parametrize("options", [(0.7, 0.5, 16), (0.5, 0.0, 16), (0.9, 0.8, 2), (0.5, 0.3, 0)])
def test_steps_are_those_of_the_rule_on_lists(options):
    rng = random.Random(0)
    for _ in range(30):
        steps = [[(rng.randint(0, 3), round(rng.uniform(0.2, 0.99), 3)) for _ in range(5)] for _ in range(12)]
        decoder = EditDecoder("quality", *options)
        state = fresh(decoder, 5)
        for step, (block, done) in zip(steps, reference(steps, *options), strict=False):
            state = decoder.step(state, logits_of(step), SPECIAL)
            assert state.ids.tolist()[0] == block
            assert bool(state.converged) == done


def test_editing_goes_on_after_the_last_mask_until_nothing_changes():
    decoder = EditDecoder("quality")
    states = run(decoder, fresh(decoder, 2), [(1, 0.8), (2, 0.8)], [(3, 0.6), (2, 0.8)], [(3, 0.6), (2, 0.4)])
    assert [state.ids.tolist()[0] for state in states] == [[1, 2], [3, 2], [3, 2]]
    assert [bool(state.converged) for state in states] == [False, False, True]


def test_presets_are_the_published_ones_and_thresholds_win_over_them():
    assert (EditDecoder().tau_mask, EditDecoder().tau_edit) == (0.7, 0.5)
    assert (EditDecoder("speed").tau_mask, EditDecoder("speed").tau_edit) == (0.5, 0.0)
    assert (EditDecoder("speed", tau_edit=0.3).tau_mask, EditDecoder("speed", tau_edit=0.3).tau_edit) == (0.5, 0.3)
    assert EditDecoder().max_steps(32) == 48


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "fast"}, "preset: expected 'quality' or 'speed', got 'fast'"),
        ({"tau_edit": 1.5}, r"tau_edit: expected a number in \[0, 1\], got 1.5"),
        ({"max_post_edit_steps": -1}, "max_post_edit_steps: expected at least 0, got -1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        EditDecoder(**options)
