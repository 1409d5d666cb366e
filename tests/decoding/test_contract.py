"""What every registered decoder must do."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from dmaxlit import UserError
from dmaxlit.decoding import DECODERS, CommittingDecoder, ThresholdDecoder, make_decoder, propose
from dmaxlit.decoding.base import Decoder, Sampling
from dmaxlit.engine import BlockDecoder
from tests.engine.scripted import SPECIAL, ScriptedDenoiser

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
    "hierarchical, re-masking": ("hierarchical", {"tau_high": 0.6, "tau_low": 0.2, "tau_remask": 0.5}),
    "credit, low": ("credit", {"threshold": 0.4, "alpha": 2.0}),
    "entropy_bounded, wide": ("entropy_bounded", {"gamma": 1.5}),
    "entropy_bounded by confidence": ("entropy_bounded", {"gamma": 1.5, "proxy": "confidence"}),
    "entropy_bounded by margin": ("entropy_bounded", {"gamma": 1.5, "proxy": "margin"}),
    "factor, bold": ("factor", {"factor": 3.0}),
    "wino, bold": ("wino", {"tau_in": 0.2, "tau_out": 0.5}),
    "edit, fast": ("edit", {"preset": "speed"}),
    "edit, without post-edits": ("edit", {"tau_edit": 0.3, "max_post_edit_steps": 0}),
    "psd, local leap": ("psd", {"policy": "local_leap", "threshold": 0.5, "relaxed": 0.2, "radius": 1}),
    "psd, inside": ("psd", {"depth": 2, "verify": "inside", "draft_tokens": 1}),
    "generate_then_edit, one at a time": ("generate_then_edit", {"tau_draft": 0.3, "tau_keep": 1.0, "max_edits": 1}),
}
LENGTH = 6


@pytest.fixture(params=VARIANTS, ids=str)
def decoder(request):
    name, options = VARIANTS[request.param]
    return make_decoder(name, **options)


def make_blocks(rows=5, seed=0):
    """Return blocks whose prompt has length 0, 1, 2, ... and contains mask, EOS and pad tokens."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, SPECIAL.vocab_size, (rows, LENGTH), generator=generator)
    ids[:, 0] = SPECIAL.mask_id
    editable = torch.arange(LENGTH) >= torch.arange(rows)[:, None]
    return ids, editable


def random_logits(decoder, rows, seed, sharpness=3.0):
    blocks = (1 + decoder.extra_blocks,) if decoder.extra_blocks else ()
    shape = (rows, *blocks, LENGTH, SPECIAL.vocab_size)
    logits = sharpness * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    logits[..., SPECIAL.mask_id] = -torch.inf
    return logits


def walk(decoder, steps=8, rows=5):
    """Yield states and logits along a few steps of random predictions, settling on the last ones."""
    state = decoder.start(*make_blocks(rows), SPECIAL)
    for step in range(steps):
        logits = random_logits(decoder, rows, min(step, 4))
        yield state, logits
        state = decoder.step(state, logits, SPECIAL)


def test_certain_predictions_become_the_answer_within_the_bound(decoder):
    ids, editable = make_blocks()
    answer = torch.where(editable, (ids + 1) % SPECIAL.pad_id, ids)
    logits = torch.full((*ids.shape, SPECIAL.vocab_size), -torch.inf).scatter(-1, answer.unsqueeze(-1), 0.0)
    if decoder.extra_blocks:
        logits = logits.unsqueeze(1).expand(-1, 1 + decoder.extra_blocks, -1, -1)
    state = decoder.start(ids, editable, SPECIAL)
    for _ in range(decoder.max_steps(LENGTH)):
        finished = state.converged.view(-1, *[1] * (logits.dim() - 1))
        logits_now = torch.where(finished, random_logits(decoder, 5, 1), logits)
        after = decoder.step(state, logits_now, SPECIAL)
        state = after.assign(state.converged.nonzero().squeeze(1), state.select(state.converged.nonzero().squeeze(1)))
    assert state.converged.all()
    assert torch.equal(state.ids, answer)
    assert not state.masked.any()


def test_a_fresh_block_is_all_masked_but_the_prompt(decoder):
    ids, editable = make_blocks()
    state = decoder.start(ids, editable, SPECIAL)
    assert torch.equal(state.masked, editable)
    assert (state.ids[editable] == SPECIAL.mask_id).all()
    assert torch.equal(state.ids[~editable], ids[~editable])
    assert not state.converged.any()
    assert not state.step.any()
    assert state.soft is None or not state.soft.where.any()
    assert (state.extra_blocks is None) == (decoder.extra_blocks == 0)


def test_the_prompt_never_changes_and_its_mask_tokens_are_data(decoder):
    ids, editable = make_blocks()
    for state, _ in walk(decoder):
        assert torch.equal(state.ids[~editable], ids[~editable])
        assert not (state.masked & ~editable).any()
        assert state.soft is None or not (state.soft.where & ~editable).any()
        if state.extra_blocks is not None:
            prompt = ~editable[:, None].expand_as(state.extra_blocks)
            assert torch.equal(state.extra_blocks[prompt], ids[:, None].expand_as(state.extra_blocks)[prompt])


def test_the_block_holds_the_mask_token_exactly_where_nothing_is_decided(decoder):
    _, editable = make_blocks()
    for state, _ in walk(decoder):
        assert torch.equal((state.ids == SPECIAL.mask_id) & editable, state.masked)
        assert not (state.converged & state.masked.any(1)).any()


def test_a_step_counts_and_leaves_its_arguments_unchanged(decoder):
    for state, logits in walk(decoder):
        before, logits_before = copy.deepcopy(state), logits.clone()
        after = decoder.step(state, logits, SPECIAL)
        assert torch.equal(after.step, before.step + 1)
        assert torch.equal(logits, logits_before)
        everything = torch.arange(5)
        for name in ("ids", "editable", "masked", "step", "converged"):
            assert torch.equal(getattr(state, name), getattr(before, name)), name
        if state.soft is not None:
            selected = state.select(everything).soft
            for name in ("ids", "weights", "where"):
                assert torch.equal(getattr(selected, name), getattr(before.soft, name)), name
        assert all(torch.equal(state.memory[name], before.memory[name]) for name in before.memory)
        assert state.extra_blocks is None or torch.equal(state.extra_blocks, before.extra_blocks)


def test_logits_that_are_not_needed_do_not_matter(decoder):
    for state, logits in walk(decoder):
        needed = decoder._needed_positions(state)
        assert (needed is not None) == isinstance(decoder, CommittingDecoder)
        if needed is None:
            continue
        assert needed.shape == state.ids.shape
        sparse, blanked = logits[needed], torch.where(needed.unsqueeze(-1), logits, 0.0)
        expected = decoder.step(state, logits, SPECIAL)
        others = [decoder.step(state, blanked, SPECIAL), decoder._step_sparse(state, sparse, needed, SPECIAL)]
        others.append(Decoder._step_sparse(decoder, state, sparse, needed, SPECIAL))
        for after in others:
            for name in ("ids", "masked", "step", "converged"):
                assert torch.equal(getattr(after, name), getattr(expected, name)), name


class Rewriting(ThresholdDecoder):
    """Commits by threshold, and writes the top-1 token at every position that is not masked."""

    def step(self, state, logits, special):
        after = super().step(state, logits, special)
        return replace(after, ids=torch.where(state.masked, after.ids, logits.argmax(-1)))


class Inheriting(Rewriting):
    """Inherits an overridden step."""


@pytest.mark.parametrize("cls", [Rewriting, Inheriting])
def test_a_subclass_with_its_own_step_gets_all_logits(cls):
    decoder = cls()
    for state, _ in walk(decoder):
        assert decoder._needed_positions(state) is None


def test_the_engine_gives_all_logits_to_a_subclass_with_its_own_step():
    def parity(position, fed):  # predicts another token at masks than at tokens
        return 3 if fed == SPECIAL.mask_id else 4

    engine = BlockDecoder(ScriptedDenoiser(parity), Rewriting(threshold=1.0))
    plain = BlockDecoder(ScriptedDenoiser(parity), ThresholdDecoder(1.0))
    assert engine.decode([[]], 4)[0].token_ids == [4, 4, 4, 3]
    assert plain.decode([[]], 4)[0].token_ids == [3, 3, 3, 3]


def test_tokens_are_drawn_from_the_needed_logits_alone():
    decoder = make_decoder("threshold", threshold=0.4)
    draws = torch.rand(5, LENGTH, generator=torch.Generator().manual_seed(2))
    for state, logits in walk(decoder):
        hot = replace(state, sampling=Sampling(draws, torch.full((5,), 2.0), torch.ones(5)))
        needed = decoder._needed_positions(hot)
        after = decoder._step_sparse(hot, logits[needed], needed, SPECIAL)
        expected = decoder.step(hot, logits, SPECIAL)
        assert torch.equal(after.ids, expected.ids)
        assert torch.equal(after.masked, expected.masked)


def test_features_are_those_of_masked_positions_alone():
    class Greedy(DECODERS.get("entropy_bounded")):
        def select(self, state, proposal, features):
            calls.append(features)
            return super().select(state, proposal, features)

    calls, decoder = [], Greedy()
    for state, logits in walk(decoder):
        calls.clear()
        needed = decoder._needed_positions(state)
        decoder.step(state, logits, SPECIAL)
        decoder._step_sparse(state, logits[needed], needed, SPECIAL)
        torch.testing.assert_close(calls[0], calls[1])
        assert (calls[0][~state.masked] == 0).all()


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
            if alone.extra_blocks is not None:
                assert torch.equal(alone.extra_blocks, same.extra_blocks)


def test_blocks_attend_to_themselves_and_the_first_to_no_other(decoder):
    block_attention_mask = decoder.block_attention_mask(LENGTH)
    width = (1 + decoder.extra_blocks) * LENGTH
    assert (block_attention_mask.dtype, tuple(block_attention_mask.shape)) == (torch.bool, (width, width))
    assert block_attention_mask[:LENGTH, :LENGTH].all()
    assert not block_attention_mask[:LENGTH, LENGTH:].any()
    assert block_attention_mask.any(1).all()


def test_sampled_tokens_are_used_and_settle(decoder):
    """At a high temperature with equal draws, all of it still ends, and a position's token is the one drawn."""
    ids, editable = make_blocks()
    draws = torch.rand(ids.shape, generator=torch.Generator().manual_seed(2))
    hot = Sampling(draws, torch.full((5,), 2.0), torch.ones(5))
    logits = random_logits(decoder, 5, 3)
    logits = logits[:, :1].expand_as(logits) if decoder.extra_blocks else logits
    state = replace(decoder.start(ids, editable, SPECIAL), sampling=hot)
    drawn = propose(state, logits[:, 0] if decoder.extra_blocks else logits).tokens
    for _ in range(decoder.max_steps(LENGTH)):
        after = decoder.step(state, logits, SPECIAL)
        done = state.converged.nonzero().squeeze(1)
        state = after.assign(done, state.select(done))
    settled = ~state.masked & editable
    if not isinstance(decoder, DECODERS.get("credit")):  # which raises the logits it draws from
        assert torch.equal(state.ids[settled], drawn[settled])
    assert settled.float().sum() > 0


def test_mixtures_are_shares_of_tokens_and_cover_no_mask(decoder):
    for state, _ in walk(decoder):
        if state.soft is not None:
            assert not (state.soft.where & state.masked).any()
            weights = state.soft.weights[state.soft.where]
            assert (weights >= 0).all()
            torch.testing.assert_close(weights.sum(-1), torch.ones(len(weights)))


def test_a_step_never_reads_a_value_from_the_device(decoder):
    ids, editable = make_blocks()
    state = decoder.start(ids.to("meta"), editable.to("meta"), SPECIAL)
    for step in range(3):
        state = decoder.step(state, random_logits(decoder, 5, step).to("meta"), SPECIAL)
    assert state.ids.device.type == "meta"


def test_the_bound_is_the_option_if_given(decoder):
    assert decoder.max_steps(LENGTH) >= LENGTH
    assert type(decoder)(max_steps=3).max_steps(LENGTH) == 3


@pytest.mark.parametrize("name", list(DECODERS))
def test_a_bound_below_one_is_refused(name):
    with pytest.raises(UserError, match="max_steps: expected at least 1, got 0"):
        make_decoder(name, max_steps=0)


@pytest.mark.parametrize("name", list(DECODERS))
def test_the_first_line_of_the_help_says_what_it_does(name):
    assert len(DECODERS.summary(name)) > 20
