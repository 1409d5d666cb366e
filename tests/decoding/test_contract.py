"""What every registered decoder must do."""

import copy
from typing import Any

import pytest
import torch

from dmaxlit import UserError
from dmaxlit.decoding import DECODERS, make_decoder
from tests.decoding.scripted import SPECIAL

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in DECODERS} | {
    "threshold at 0": ("threshold", {"threshold": 0.0}),
    "threshold, one token": ("threshold", {"threshold": 1.0}),
    "threshold, at most two": ("threshold", {"threshold": 0.3, "max_tokens": 2}),
    "spd at 0": ("spd", {"tau_dec": 0.0}),
    "spd at 1": ("spd", {"tau_dec": 1.0, "tau_acc": 1.0}),
    "spd, not contiguous": ("spd", {"contiguous": False}),
    "spd, hard": ("spd", {"soft": False}),
    "spd, top 3": ("spd", {"top_k": 3}),
    "spd, consistency only": ("spd", {"stop_on_confidence": False}),
    "spd, confidence only": ("spd", {"stop_on_consistency": False, "tau_acc": 0.5}),
}
LENGTH = 6


@pytest.fixture(params=VARIANTS, ids=str)
def decoder(request):
    name, options = VARIANTS[request.param]
    return make_decoder(name, **options)


def make_blocks(rows=5, seed=0):
    """Blocks whose prompt part is of length 0, 1, 2, ... and contains mask, EOS and pad tokens."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, SPECIAL.vocab_size, (rows, LENGTH), generator=generator)
    ids[:, 0] = SPECIAL.mask
    editable = torch.arange(LENGTH) >= torch.arange(rows)[:, None]
    return ids, editable


def random_logits(rows, seed, sharpness=3.0):
    logits = sharpness * torch.randn(rows, LENGTH, SPECIAL.vocab_size, generator=torch.Generator().manual_seed(seed))
    logits[..., SPECIAL.mask] = -torch.inf
    return logits


def walk(decoder, steps=8, rows=5):
    """States and logits along a few steps of random predictions, settling on the last ones."""
    state = decoder.start(*make_blocks(rows), SPECIAL)
    for step in range(steps):
        logits = random_logits(rows, min(step, 4))
        yield state, logits
        state = decoder.step(state, logits, SPECIAL)


def test_certain_predictions_become_the_answer_within_the_bound(decoder):
    ids, editable = make_blocks()
    answer = torch.where(editable, (ids + 1) % SPECIAL.pad, ids)
    logits = torch.full((*ids.shape, SPECIAL.vocab_size), -torch.inf).scatter(-1, answer.unsqueeze(-1), 0.0)
    state = decoder.start(ids, editable, SPECIAL)
    for _ in range(decoder.max_steps(LENGTH)):
        logits_now = torch.where(state.converged[:, None, None], random_logits(5, 1), logits)
        after = decoder.step(state, logits_now, SPECIAL)
        state = after.assign(state.converged.nonzero().squeeze(1), state.select(state.converged.nonzero().squeeze(1)))
    assert state.converged.all()
    assert torch.equal(state.ids, answer)
    assert not state.masked.any()


def test_a_fresh_block_is_all_masked_but_the_prompt(decoder):
    ids, editable = make_blocks()
    state = decoder.start(ids, editable, SPECIAL)
    assert torch.equal(state.masked, editable)
    assert (state.ids[editable] == SPECIAL.mask).all()
    assert torch.equal(state.ids[~editable], ids[~editable])
    assert not state.converged.any()
    assert not state.step.any()
    assert state.soft is None or not state.soft.where.any()


def test_the_prompt_never_changes_and_its_mask_tokens_are_data(decoder):
    ids, editable = make_blocks()
    for state, _ in walk(decoder):
        assert torch.equal(state.ids[~editable], ids[~editable])
        assert not (state.masked & ~editable).any()
        assert state.soft is None or not (state.soft.where & ~editable).any()


def test_the_canvas_holds_the_mask_token_exactly_where_nothing_is_decided(decoder):
    _, editable = make_blocks()
    for state, _ in walk(decoder):
        assert torch.equal((state.ids == SPECIAL.mask) & editable, state.masked)
        assert not (state.converged & state.masked.any(1)).any()


def test_a_step_counts_and_leaves_its_arguments_as_they_are(decoder):
    for state, logits in walk(decoder):
        before, logits_before = copy.deepcopy(state), logits.clone()
        after = decoder.step(state, logits, SPECIAL)
        assert torch.equal(after.step, before.step + 1)
        assert torch.equal(logits, logits_before)
        everything = torch.arange(5)
        for name in ("ids", "editable", "masked", "step", "converged"):
            assert torch.equal(getattr(state, name), getattr(before, name)), name
        if state.soft is not None:
            chosen = state.select(everything).soft
            for name in ("ids", "weights", "where"):
                assert torch.equal(getattr(chosen, name), getattr(before.soft, name)), name
        assert all(torch.equal(state.memory[name], before.memory[name]) for name in before.memory)


def test_every_step_decides_or_revises_something_or_converges(decoder):
    stalls = isinstance(decoder, DECODERS.get("spd")) and not decoder.stop_on_consistency
    for state, logits in walk(decoder):
        after = decoder.step(state, logits, SPECIAL)
        moved = (after.ids != state.ids).any(1) | (after.masked != state.masked).any(1)
        assert (moved | after.converged).all() or stalls


def test_a_row_does_not_depend_on_the_others(decoder):
    for state, logits in walk(decoder):
        together = decoder.step(state, logits, SPECIAL)
        for row in range(5):
            index = torch.tensor([row])
            alone = decoder.step(state.select(index), logits[index], SPECIAL)
            same = together.select(index)
            for name in ("ids", "masked", "step", "converged"):
                assert torch.equal(getattr(alone, name), getattr(same, name)), name
            if alone.soft is not None:
                assert torch.equal(alone.soft.ids, same.soft.ids)
                assert torch.equal(alone.soft.where, same.soft.where)
                torch.testing.assert_close(alone.soft.weights, same.soft.weights)


def test_mixtures_are_shares_of_tokens_and_cover_no_mask(decoder):
    for state, _ in walk(decoder):
        if state.soft is not None:
            assert not (state.soft.where & state.masked).any()
            weights = state.soft.weights[state.soft.where]
            assert (weights >= 0).all()
            torch.testing.assert_close(weights.sum(-1), torch.ones(len(weights)))


def test_a_step_never_asks_the_device_for_a_value(decoder):
    ids, editable = make_blocks()
    state = decoder.start(ids.to("meta"), editable.to("meta"), SPECIAL)
    for step in range(3):
        state = decoder.step(state, random_logits(5, step).to("meta"), SPECIAL)
    assert state.ids.device.type == "meta"


def test_the_bound_is_the_option_if_given(decoder):
    assert decoder.max_steps(LENGTH) >= LENGTH
    assert type(decoder)(max_steps=3).max_steps(LENGTH) == 3


@pytest.mark.parametrize("name", list(DECODERS))
def test_a_bound_below_one_is_refused(name):
    with pytest.raises(UserError, match="max_steps: expected at least 1 or none, got 0"):
        make_decoder(name, max_steps=0)


@pytest.mark.parametrize("name", list(DECODERS))
def test_the_first_line_of_the_help_says_what_it_does(name):
    assert len(DECODERS.summary(name)) > 20
