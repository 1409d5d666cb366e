"""What every registered decoder must do."""

import inspect
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import torch

from dmaxlit import UserError
from dmaxlit.decoding import DECODERS, CommittingDecoder, ThresholdDecoder, make_decoder, propose
from dmaxlit.decoding.base import Sampling
from dmaxlit.engine import BlockDecoder
from dmaxlit.testing import decoder_properties
from dmaxlit.testing.blocks import LENGTH, SPECIAL, new_blocks, random_logits, walk
from tests.engine import scripted

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in DECODERS} | {
    "threshold at 0": ("threshold", {"threshold": 0.0}),
    "threshold, one token": ("threshold", {"threshold": 1.0}),
    "threshold, at most two": ("threshold", {"threshold": 0.3, "max_tokens": 2}),
    "spd at 0": ("spd", {"tau_dec": 0.0}),
    "spd at 1": ("spd", {"tau_dec": 1.0, "tau_acc": 1.0}),
    "spd, not contiguous": ("spd", {"contiguous": False}),
    "spd, hard": ("spd", {"soft": False}),
    "spd, slerp": ("spd", {"soft": "slerp"}),
    "spd, top 3": ("spd", {"top_k": 3}),
    "spd, consistency only": ("spd", {"stop_on_confidence": False}),
    "spd, confidence only": ("spd", {"stop_on_consistency": False, "tau_acc": 0.5}),
    "hierarchical, re-masking": ("hierarchical", {"tau_high": 0.6, "tau_low": 0.2, "tau_remask": 0.5}),
    "credit, low": ("credit", {"threshold": 0.4, "alpha": 2.0}),
    "entropy_bounded, wide": ("entropy_bounded", {"gamma": 1.5}),
    "entropy_bounded by confidence": ("entropy_bounded", {"gamma": 1.5, "proxy": "confidence"}),
    "entropy_bounded by margin": ("entropy_bounded", {"gamma": 1.5, "proxy": "margin"}),
    "factor, bold": ("factor", {"factor": 3.0}),
    "frechet, bold": ("frechet", {"delta": 0.0}),
    "entropy_gate, wide": ("entropy_gate", {"beta": 4.0, "threshold": 0.3, "first": 2}),
    "less, hasty": ("less", {"threshold": 0.3, "patience": 1, "max_divergence": 1.0, "top_k": 2}),
    "t2m, mirrored": ("t2m", {"detector": "mirrored", "tau_mask": 0.3, "tau_remask": 0.4}),
    "t2m, change": ("t2m", {"detector": "change", "tau_mask": 0.3, "tau_remask": 0.1, "max_share": 1.0}),
    "wino, bold": ("wino", {"tau_in": 0.2, "tau_out": 0.5}),
    "edit, fast": ("edit", {"preset": "speed"}),
    "edit, without post-edits": ("edit", {"tau_edit": 0.3, "max_post_edit_steps": 0}),
    "psd, local leap": ("psd", {"policy": "local_leap", "threshold": 0.5, "relaxed": 0.2, "radius": 1}),
    "psd, inside": ("psd", {"depth": 2, "verify": "inside", "draft_tokens": 1}),
    "generate_then_edit, one at a time": ("generate_then_edit", {"tau_draft": 0.3, "tau_keep": 1.0, "max_edits": 1}),
}


@pytest.fixture(params=VARIANTS, ids=str)
def decoder(request):
    name, options = VARIANTS[request.param]
    return make_decoder(name, **options)


CHECKS = [
    pytest.param(check, id=f"{variant}: {check}")
    for variant, (name, options) in VARIANTS.items()
    for check in decoder_properties(name, **options)
]


@pytest.mark.parametrize("check", CHECKS)
def test_a_decoder_has_the_properties_of_all(check):
    check()


# ---- what only our own promise -------------------------------------------------------------------------------------


def test_a_fresh_block_is_all_masked_but_the_prompt(decoder):
    ids, editable, *_ = new_blocks()
    state = decoder.start(ids, editable, SPECIAL)
    assert torch.equal(state.masked, editable)
    assert (state.ids[editable] == SPECIAL.mask_id).all()
    assert torch.equal(state.ids[~editable], ids[~editable])
    assert not state.converged.any()
    assert not state.step.any()
    assert state.soft is None or not state.soft.where.any()
    assert (state.extra_blocks is None) == (decoder.extra_blocks == 0)


def test_only_committing_decoders_say_which_logits_they_need(decoder):
    for state, _ in walk(decoder):
        needed = decoder._needed_positions(state)
        assert (needed is not None) == isinstance(decoder, CommittingDecoder)
        assert needed is None or needed.shape == state.ids.shape


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
        return 3 if fed == scripted.SPECIAL.mask_id else 4

    engine = BlockDecoder(scripted.ScriptedDenoiser(parity), Rewriting(threshold=1.0))
    plain = BlockDecoder(scripted.ScriptedDenoiser(parity), ThresholdDecoder(1.0))
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


def test_sampled_tokens_are_used_and_settle(decoder):
    """At a high temperature with equal draws, all of it still ends, and a position's token is the one drawn."""
    ids, editable, *_ = new_blocks()
    draws = torch.rand(ids.shape, generator=torch.Generator().manual_seed(2))
    hot = Sampling(draws, torch.full((5,), 2.0), torch.ones(5))
    logits = random_logits(decoder, 3)
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


def test_mixtures_cover_no_mask(decoder):
    for state, _ in walk(decoder):
        assert state.soft is None or not (state.soft.where & state.masked).any()


def test_the_bound_is_the_option_if_given(decoder):
    assert decoder.max_steps(LENGTH) >= LENGTH
    assert type(decoder)(max_steps=3).max_steps(LENGTH) == 3


@pytest.mark.parametrize("name", list(DECODERS))
def test_a_bound_below_one_is_refused(name):
    with pytest.raises(UserError, match="max_steps: expected at least 1, got 0"):
        make_decoder(name, max_steps=0)


@pytest.mark.parametrize("name", list(DECODERS))
def test_no_count_makes_it_keep_more_of_a_position_than_its_logits(name):
    """Else a client of a server could fill its memory."""
    special = replace(SPECIAL, vocab_size=10**4)
    ids = torch.zeros(1, LENGTH, dtype=torch.long)
    options = inspect.signature(DECODERS.get(name)).parameters.values()
    for option in [option.name for option in options if option.annotation in (int, int | None)]:
        sizes = []
        for exponent in range(14):
            with suppress(UserError):
                state = make_decoder(name, **{option: 2**exponent}).start(ids, ids == 0, special)
                sizes.append(sum(tensor.numel() for tensor in state.memory.values()))
        assert sizes
        assert max(sizes) <= LENGTH * special.vocab_size


@pytest.mark.parametrize("name", list(DECODERS))
def test_the_first_line_of_the_help_says_what_it_does(name):
    assert len(DECODERS.summary(name)) > 20
