"""Several blocks of a prompt at once: the engine against an independent reference, and what must not matter."""

import itertools
from functools import cache
from typing import Any

import pytest
import torch

from dmaxlit import UserError
from dmaxlit.decoding import DECODERS, make_decoder
from dmaxlit.decoding.admission import AdmissionPolicy, make_admission
from dmaxlit.engine import BlockDecoder, Sampler, TokenState, Trace, drafts
from tests.engine.models import lively_denoiser, make_prompts
from tests.engine.window_reference import reference_window

BUDGET = 44
PROMPTS = make_prompts((3, 8, 25, 0, 17, 7))
NUM_REFERENCES = 4  # of them: the reference is slow
POLICIES: list[tuple[str, dict[str, Any]]] = [
    ("progress", {}),
    ("progress", {"theta": 0.0}),
    ("multi_bd", {}),
    ("multi_bd", {"tau_add": 0.3, "tau_stable": 0.9}),
    ("multi_bd", {"keeps_closed": True}),
    ("converging", {}),
    ("restarting", {}),
    ("restarting", {"theta": 0.2, "tau_restart": 0.0}),
]
WINDOWS = [(3, name, options) for name, options in POLICIES] + [(2, name, {}) for name in ("progress", "multi_bd")]
WINDOWS.append((2, "multi_bd", {"keeps_closed": True}))
DECODER_OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "spd": ("spd", {}),
    "spd, 0": ("spd", {"tau_dec": 0.0}),
    "threshold": ("threshold", {"threshold": 0.5}),
    "threshold, semi": ("threshold", {"threshold": 0.7, "tau_semi": 0.6}),
    "edit": ("edit", {"preset": "speed"}),
}
# Each window with two decoders, each decoder with half of the windows.
RULES = [
    (decoder_name, *case)
    for index, case in enumerate(WINDOWS)
    for decoder_name in (("spd", "threshold") if index % 2 else ("spd, 0", "edit"))
]
ONE_VERSION = sorted(name for name in DECODERS if not make_decoder(name).extra_blocks)


@cache
def shared_denoiser():
    return lively_denoiser()


@pytest.fixture(scope="module")
def denoiser():
    return shared_denoiser()


def decode(denoiser, decoder, prompts=PROMPTS, window=2, policy=("progress", {}), **options):
    admission = make_admission(policy[0], **policy[1])
    return BlockDecoder(denoiser, decoder, window=window, admission=admission, **options).decode(prompts, BUDGET)


@cache
def expected_rows(decoder_name, window, policy, *options):
    """What the reference says of each prompt. Slow, and asked for more than once."""
    name, decoder_options = DECODER_OPTIONS[decoder_name]
    decoder = make_decoder(name, **decoder_options)
    return [
        reference_window(shared_denoiser(), decoder, prompt, BUDGET, window, policy, dict(options))
        for prompt in PROMPTS[:NUM_REFERENCES]
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("decoder_name", "window", "policy", "options"), RULES, ids=str)
def test_the_engine_does_what_the_rule_says(denoiser, decoder_name, window, policy, options):
    name, decoder_options = DECODER_OPTIONS[decoder_name]
    decoder = make_decoder(name, **decoder_options)
    prompts = PROMPTS[:NUM_REFERENCES]
    rows = decode(denoiser, decoder, prompts, window, policy=(policy, options), batch_size=3)
    for row, expected in zip(rows, expected_rows(decoder_name, window, policy, *options.items()), strict=True):
        assert row.token_ids == expected.token_ids
        assert (row.num_forwards, row.num_extra_blocks) == (expected.num_forwards, expected.num_extra_blocks)
        assert row.finished == expected.finished


def test_the_reference_meets_what_it_is_to_show():
    """Wide windows, blocks closed together, and blocks dropped behind an EOS."""
    seen = [row for name in DECODER_OPTIONS for row in expected_rows(name, 3, "progress", ("theta", 0.0))]
    assert max(max(row.widths) for row in seen) == 3
    assert any(row.cascades for row in seen)
    assert any(row.dropped for row in seen)
    restarting = [row for name in ("spd, 0", "edit") for row in expected_rows(name, 3, "restarting")]
    assert any(row.restarted for row in restarting)
    assert any(row.finished for row in seen)
    assert any(not row.finished for row in seen)


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_VERSION)
def test_a_row_does_not_depend_on_its_neighbours_or_the_cache(denoiser, name):
    decoder = make_decoder(name)
    together = decode(denoiser, decoder, batch_size=4)
    assert together[:3] == [decode(denoiser, decoder, [prompt])[0] for prompt in PROMPTS[:3]]
    assert together[3:] == decode(denoiser, decoder, PROMPTS[3:], use_cache=False)
    order = [5, 2, 0, 3, 1, 4]
    shuffled = decode(denoiser, decoder, [PROMPTS[i] for i in order], batch_size=2)
    assert shuffled == [together[i] for i in order]
    assert any(row.num_extra_blocks for row in together)


def test_a_closed_block_keeps_its_place_also_without_a_cache(denoiser):
    decoder, policy = make_decoder("edit", preset="speed"), ("multi_bd", {"tau_add": 0.3, "keeps_closed": True})
    rows = decode(denoiser, decoder, policy=policy)
    assert any(row.num_extra_blocks for row in rows)
    assert decode(denoiser, decoder, policy=policy, use_cache=False) == rows


def test_a_window_may_be_larger_than_any_response(denoiser):
    decoder = make_decoder("spd")
    assert decode(denoiser, decoder, window=10**30) == decode(denoiser, decoder, window=BUDGET)


def test_blocks_wait_until_the_one_before_is_semi_complete(denoiser):
    policy = ("progress", {"theta": 0.0})
    patient, eager = (
        decode(denoiser, make_decoder("threshold", threshold=0.7, tau_semi=tau), window=3, policy=policy)
        for tau in (0.6, 0.0)
    )
    expected = expected_rows("threshold, semi", 3, "progress", ("theta", 0.0))
    assert [(row.token_ids, row.num_forwards) for row in patient[:NUM_REFERENCES]] == [
        (row.token_ids, row.num_forwards) for row in expected
    ]
    assert patient != eager


class Refusing(AdmissionPolicy):
    def admit(self, before, after):
        raise AssertionError("asked")


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_a_window_of_one_block_is_no_window(denoiser, name):
    decoder = make_decoder(name)
    plain = BlockDecoder(denoiser, decoder, batch_size=3).decode(PROMPTS, BUDGET)
    window = BlockDecoder(denoiser, decoder, window=1, admission=Refusing(), batch_size=3)
    assert window.decode(PROMPTS, BUDGET) == plain


def test_the_limits_of_forwards_and_steps_hold(denoiser):
    decoder = make_decoder("spd", max_steps=5)
    for max_forwards in (1, 7, None):
        rows = decode(denoiser, decoder, max_forwards=max_forwards)
        for prompt, row in zip(PROMPTS, rows, strict=True):
            expected = reference_window(denoiser, decoder, prompt, BUDGET, 2, "progress", {}, max_forwards=max_forwards)
            assert (row.token_ids, row.num_forwards) == (expected.token_ids, expected.num_forwards)
            assert max_forwards is None or row.num_forwards <= max_forwards


@pytest.mark.parametrize(("policy", "options"), [("progress", {"theta": 0.0}), ("converging", {}), ("restarting", {})])
def test_what_has_converged_behind_the_front_is_kept_at_the_limit_of_forwards(denoiser, policy, options):
    decoder, num_kept = make_decoder("spd", tau_dec=0.0), 0
    for max_forwards in range(2, 8):
        rows = decode(denoiser, decoder, window=3, policy=(policy, options), max_forwards=max_forwards, batch_size=4)
        for prompt, row in zip(PROMPTS, rows, strict=True):
            expected = reference_window(denoiser, decoder, prompt, BUDGET, 3, policy, options, max_forwards)
            assert (row.token_ids, row.num_forwards) == (expected.token_ids, expected.num_forwards)
            assert row.finished == expected.finished
            num_kept += expected.cascades > 0
    assert (num_kept > 0) == (policy != "restarting")  # which closes one block a forward


def test_samples_do_not_depend_on_the_batch(denoiser):
    decoder = make_decoder("spd")
    hot = [decode(denoiser, decoder, sampler=Sampler(1.0, seed=3), batch_size=size) for size in (1, 4)]
    assert hot[0] == hot[1]
    assert hot[0] != decode(denoiser, decoder)


def test_eager_attention_is_sdpa(denoiser):
    # Decoders that revise may amplify rounding from forward to forward, in the reference as well.
    decoder = make_decoder("threshold", threshold=0.5)
    assert decode(lively_denoiser(attn_implementation="eager"), decoder) == decode(denoiser, decoder)


@pytest.mark.parametrize("name", ["psd", "wino"])
def test_decoders_with_versions_of_a_block_are_refused(denoiser, name):
    with pytest.raises(UserError, match=r"window: expected 1 for decoder \w+, which reads several versions"):
        BlockDecoder(denoiser, make_decoder(name), window=2)


def test_settings_that_cannot_be_are_refused(denoiser):
    spd = make_decoder("spd")
    with pytest.raises(UserError, match="window: expected at least 1, got 0"):
        BlockDecoder(denoiser, spd, window=0)
    with pytest.raises(UserError, match="window: expected 1 for compiled forwards, got 2"):
        BlockDecoder(denoiser, spd, window=2, compile=True)
    with pytest.raises(UserError, match="theta: expected"):
        make_admission("progress", theta=1.5)
    with pytest.raises(UserError, match="admission 'progress': unknown option tau; known: theta"):
        make_admission("progress", tau=0.5)
    with pytest.raises(UserError, match="admission policy"):
        make_admission("never")


@torch.no_grad()
def test_an_admission_is_asked_with_the_block_before_and_after(denoiser):
    asked = []

    class Spy(type(make_admission("progress"))):
        def admit(self, before, after):
            asked.append((before.step.tolist(), after.step.tolist()))
            return super().admit(before, after)

    BlockDecoder(denoiser, make_decoder("spd"), window=2, admission=Spy()).decode(PROMPTS[:2], BUDGET)
    assert max(len(before) for before, _ in asked) > 2  # of all open blocks
    assert all([step + 1 for step in before] == after for before, after in asked)


def test_a_trace_holds_every_open_block_of_every_forward(denoiser, tmp_path):
    trace = Trace()
    decoder = make_decoder("spd")
    rows = BlockDecoder(denoiser, decoder, batch_size=4, window=3).decode(PROMPTS, BUDGET, trace=trace)
    trace.save(tmp_path / "trace.safetensors")
    loaded = Trace.load(tmp_path / "trace.safetensors")
    for index, row in enumerate(rows):
        for record in (trace.rows[index], loaded.rows[index]):
            assert record.num_forwards == row.num_forwards
            assert len(record.ids) == row.num_forwards + row.num_extra_blocks
            ids, confidence = record.timeline()
            assert ids[-1].tolist() == row.token_ids
            assert ids.shape == confidence.shape == (row.num_forwards, row.num_tokens)
            starts = record.start.reshape(-1)
            same_forward = record.forward_of_entries().diff() == 0
            assert (starts.diff()[same_forward] == denoiser.block_length).all()
    assert any(row.num_extra_blocks for row in rows)
    assert repr(loaded) == f"Trace({len(rows)} prompts, {sum(row.num_forwards for row in rows)} forwards)"


def test_a_block_that_begins_anew_is_seen_as_it_begins(denoiser):
    admission = make_admission("restarting", theta=0.2, tau_restart=0.0)
    engine = BlockDecoder(denoiser, make_decoder("edit", preset="speed"), 4, window=3, admission=admission)
    before, num_restarted = {}, 0
    for event in engine.forwards(PROMPTS, BUDGET):
        _, kinds = event.positions()
        now = dict(zip(zip(event.prompt_indices, event.block_starts, strict=True), kinds, strict=True))
        for key, step in zip(now, event.state.step.tolist(), strict=True):
            if key in before and step == 1:
                assert before[key].unique().tolist() == [TokenState.MASKED]
                num_restarted += 1
        before = now
    assert num_restarted


def test_a_stream_commits_text_from_the_front_alone(denoiser):
    engine = BlockDecoder(
        denoiser, make_decoder("one_token"), window=3, admission=make_admission("progress", theta=0.0)
    )
    expected = engine.decode([PROMPTS[1]], BUDGET)[0]
    seen = list(drafts(engine, PROMPTS[1], BUDGET, "prompt"))
    assert len(seen) == expected.num_forwards
    assert all(after.committed.startswith(before.committed) for before, after in itertools.pairwise(seen))
    assert seen[-1].generation is not None
    assert seen[-1].generation.token_ids == expected.token_ids
    shades = [draft.provisional.count("\u2591") for draft in seen[:3]]
    assert shades == [7, 6 + 7, 5 + 6 + 7]  # one token a forward and block
