"""The engine's bookkeeping, on a denoiser whose answers are written down. Blocks hold 4 tokens."""

from dataclasses import replace

import pytest
import torch

from dmaxlit import UserError
from dmaxlit.decoding import SPDDecoder, ThresholdDecoder, UniformDecoder, make_decoder
from dmaxlit.engine import BlockDecoder
from dmaxlit.engine.trace import Trace
from tests.engine.scripted import SPECIAL, ScriptedDenoiser

EOS, MASK = SPECIAL.eos_id, SPECIAL.mask_id


def digits(position, fed):
    """Tokens that tell their position: 0 1 2 3 4 5 6 0 1 ..."""
    return position % 7


def ending_at(*positions):
    return lambda position, fed: EOS if position in positions else position % 7


def decode(script, prompts, max_new_tokens=12, decoder=None, **options):
    denoiser = ScriptedDenoiser(script)
    engine = BlockDecoder(denoiser, decoder or ThresholdDecoder(0.0), **options)
    return engine.decode(prompts, max_new_tokens), denoiser


def response(start, length):
    return [position % 7 for position in range(start, start + length)]


# ---- where a response begins and ends -------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 3, 4, 5, 8, 9, 11])
def test_a_response_begins_right_after_the_prompt_and_ends_at_the_budget(length):
    (row,), _ = decode(digits, [[0] * length], max_new_tokens=10)
    assert row.token_ids == response(length, 10)
    assert row.num_tokens == 10
    assert (row.finished, row.hit_step_limit) == (False, 0)


def test_a_response_ends_with_the_first_eos_and_not_with_its_block():
    (row,), _ = decode(ending_at(6, 7), [[1, 2, 3]])
    assert row.token_ids == [3, 4, 5, EOS]
    assert row.finished


def test_eos_as_the_first_or_the_last_token_of_the_budget_finishes():
    (row,), _ = decode(ending_at(3), [[1, 2, 3]])
    assert (row.token_ids, row.finished) == ([EOS], True)
    (row,), _ = decode(ending_at(6), [[1, 2, 3]], max_new_tokens=4)
    assert (row.token_ids, row.finished) == ([3, 4, 5, EOS], True)


def test_eos_beyond_the_budget_does_not_count():
    (row,), _ = decode(ending_at(6), [[1, 2, 3]], max_new_tokens=3)
    assert (row.token_ids, row.finished) == ([3, 4, 5], False)


def test_eos_and_mask_tokens_in_a_prompt_are_data():
    prompts = [[EOS, 1, EOS], [EOS] * 4, [MASK, 1, 2, 3, EOS], [MASK] * 6]
    rows, _ = decode(digits, prompts, max_new_tokens=4)
    for prompt, row in zip(prompts, rows, strict=True):
        assert (row.token_ids, row.finished) == (response(len(prompt), 4), False)


def test_the_budget_is_cut_to_what_the_context_holds():
    rows, _ = decode(digits, [[0] * 25, [0] * 31, [0] * 3], max_new_tokens=12)
    assert [row.num_tokens for row in rows] == [7, 1, 12]


# ---- forwards -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "budget", "blocks"), [(0, 8, 2), (3, 1, 1), (3, 2, 2), (4, 4, 1), (17, 5, 2)])
def test_prefill_and_commit_cost_no_forward(length, budget, blocks):
    (row,), denoiser = decode(digits, [[0] * length], max_new_tokens=budget)
    assert row.num_forwards == blocks
    assert len(denoiser.calls) == blocks


def test_one_token_per_forward_takes_as_many_forwards_as_positions():
    (row,), _ = decode(digits, [[0] * 3], max_new_tokens=9, decoder=ThresholdDecoder(1.0))
    assert row.num_forwards == 1 + 4 + 4


def test_pending_tokens_are_processed_in_front_of_their_row_only():
    _, denoiser = decode(digits, [[0] * 9, [0] * 2], max_new_tokens=8, decoder=ThresholdDecoder(1.0))
    # First two prompt blocks of the long prompt wait; the short one has none. Then nothing does.
    assert denoiser.calls[:3] == [(1, 4), (1, 12), (2, 4)]
    # The short prompt's first block is done after two forwards and is processed as an extra row.
    assert denoiser.calls[3] == (3, 4)


def test_rows_with_like_numbers_of_pending_blocks_share_a_forward():
    _, denoiser = decode(digits, [[0] * n for n in (0, 1, 4, 5, 13, 18)], max_new_tokens=1)
    # No pending block: 2 rows; one: 2 rows, whose pending blocks are rows more; three and four: 2, padded to four.
    assert denoiser.calls == [(6, 4), (2, 20)]


def test_a_finished_row_is_replaced_at_once():
    rows, denoiser = decode(ending_at(6), [[0] * 2] * 4, batch_size=2)
    assert [row.num_forwards for row in rows] == [2, 2, 2, 2]
    # Iterations 1 and 2 serve prompts 0 and 1, iterations 3 and 4 prompts 2 and 3: two rows each time.
    assert denoiser.calls == [(2, 4), (2, 8), (2, 4), (2, 8)]


def test_a_short_row_does_not_wait_for_a_long_one():
    # Only the second prompt begins beyond position 3 and runs to its budget; each other one takes one forward.
    rows, denoiser = decode(ending_at(3), [[0] * 2, [0] * 4, [0] * 3, [0] * 1], max_new_tokens=12, batch_size=2)
    assert [row.num_forwards for row in rows] == [1, 3, 1, 1]
    # Three iterations in all; in each, the long row has one pending block and a short one none.
    assert denoiser.calls == [(3, 4)] * 3


def test_results_come_in_the_order_of_the_prompts():
    prompts = [[0] * (n % 9) for n in range(11)]
    rows, _ = decode(ending_at(10), prompts, batch_size=3)
    assert [row.token_ids for row in rows] == [response(len(p), 10 - len(p)) + [EOS] for p in prompts]


# ---- caps and budgets of forwards -----------------------------------------------------------------------------------


def alternating(position, fed):
    return {1: 2, 2: 1}.get(fed, 1) if position % 4 == 1 else 3


@pytest.mark.parametrize("decoder", [UniformDecoder(), SPDDecoder(stop_on_confidence=False)], ids=["uniform", "spd"])
def test_an_oscillation_is_ended_by_the_cap_and_counted(decoder):
    (row,), _ = decode(alternating, [[]], max_new_tokens=8, decoder=decoder)
    assert row.num_forwards == 2 * 8
    assert row.hit_step_limit == 2
    assert row.token_ids == [3, 2, 3, 3, 3, 2, 3, 3]


def test_masks_left_at_the_cap_take_their_current_prediction():
    decoder = ThresholdDecoder(1.0, max_steps=2)
    (row,), _ = decode(digits, [[]], max_new_tokens=4, decoder=decoder)
    # Positions 0 and 1 were committed, one at each forward; the second also fills the rest.
    assert row.token_ids == [0, 1, 2, 3]
    assert (row.num_forwards, row.hit_step_limit) == (2, 1)


class Forgetful(ThresholdDecoder):
    """Masks again what it did not read."""

    def step(self, state, logits, special):
        after = super().step(state, logits, special)
        again = state.editable & ~state.masked
        ids = torch.where(again, special.mask_id, after.ids)
        return replace(after, ids=ids, masked=after.masked | again, converged=torch.zeros_like(after.converged))


@pytest.mark.parametrize("watched", [False, True])
def test_masks_that_were_not_read_are_filled_with_predictions_too(watched):
    engine = BlockDecoder(ScriptedDenoiser(digits), Forgetful(1.0, max_steps=3), check_decoder=False)
    (row,) = engine.decode([[]], 8, trace=Trace() if watched else None)
    assert row.token_ids == response(0, 8)
    assert row.hit_step_limit == 2


def test_a_block_that_converges_at_its_last_step_is_not_capped():
    (row,), _ = decode(digits, [[]], max_new_tokens=8, decoder=ThresholdDecoder(1.0, max_steps=4))
    assert (row.num_forwards, row.hit_step_limit) == (8, 0)


def test_each_row_has_its_own_step_limit():
    rows, _ = decode(alternating, [[], [0] * 2], max_new_tokens=8, decoder=UniformDecoder(max_steps=5))
    # The second prompt covers the restless position of its first block, which therefore converges.
    assert [(row.hit_step_limit, row.num_forwards) for row in rows] == [(2, 10), (2, 2 + 5 + 5)]


def test_a_budget_of_forwards_closes_the_block_and_ends_the_row():
    decoder = ThresholdDecoder(1.0)
    rows, _ = decode(digits, [[], [0] * 3], max_new_tokens=12, decoder=decoder, max_forwards=6)
    assert [row.num_forwards for row in rows] == [6, 6]
    assert [row.token_ids for row in rows] == [response(0, 8), response(3, 9)]
    assert [row.hit_step_limit for row in rows] == [1, 1]
    assert not any(row.finished for row in rows)


def test_a_budget_of_forwards_that_ends_with_a_block_caps_nothing():
    (row,), _ = decode(digits, [[]], max_new_tokens=12, decoder=ThresholdDecoder(1.0), max_forwards=8)
    assert (row.token_ids, row.num_forwards, row.hit_step_limit) == (response(0, 8), 8, 0)


@pytest.mark.parametrize("name", ["threshold", "uniform", "spd"])
@pytest.mark.parametrize("max_steps", [1, 2])
def test_the_mask_token_is_never_part_of_a_response(name, max_steps):
    decoder = make_decoder(name, max_steps=max_steps)
    rows, _ = decode(alternating, [[], [MASK] * 5, [0] * 4], decoder=decoder)
    assert all(MASK not in row.token_ids for row in rows)


# ---- around the loop ------------------------------------------------------------------------------------------------


def test_progress_counts_finished_prompts():
    seen = []
    engine = BlockDecoder(ScriptedDenoiser(digits), ThresholdDecoder(0.0), batch_size=2)
    engine.decode([[0] * n for n in range(5)], 4, progress=seen.append)
    assert sum(seen) == 5
    assert len(seen) > 1
    engine = BlockDecoder(ScriptedDenoiser(digits), ThresholdDecoder(0.0), batch_size=5)
    engine.decode([[0]], 40, progress=seen.append)
    assert 0 in seen  # also after a forward that finishes none


def test_a_progress_bar_is_shown_only_if_asked_for(capsys):
    engine = BlockDecoder(ScriptedDenoiser(digits), ThresholdDecoder(0.0))
    engine.decode([[0]], 4)
    assert capsys.readouterr().err == ""
    engine.decode([[0]], 4, progress=True)
    assert "1/1" in capsys.readouterr().err


def test_decoding_runs_in_eval_mode_and_restores_every_submodule():
    denoiser = ScriptedDenoiser(digits)
    denoiser.train()
    denoiser.layer.eval()
    BlockDecoder(denoiser, ThresholdDecoder(0.0)).decode([[0]], 4)
    assert denoiser.modes == {False}
    assert (denoiser.training, denoiser.layer.training) == (True, False)


def test_the_mode_is_restored_after_an_error():
    denoiser = ScriptedDenoiser(lambda position, fed: 1 // 0).train()
    with pytest.raises(ZeroDivisionError):
        BlockDecoder(denoiser, ThresholdDecoder(0.0)).decode([[0]], 4)
    assert denoiser.training


def test_events_hold_tensors_that_may_be_trained_on():
    (event,) = BlockDecoder(ScriptedDenoiser(digits), ThresholdDecoder(0.0)).forwards([[0]], 3)
    assert not event.state.ids.is_inference()
    assert not event.logits.is_inference()


def test_events_have_logits_unless_nobody_wants_them():
    engine = BlockDecoder(ScriptedDenoiser(digits), ThresholdDecoder(0.0))
    (full,), (bare,) = engine.forwards([[0]], 3), engine.forwards([[0]], 3, with_logits=False)
    assert full.logits is not None
    assert bare.logits is None
    assert torch.equal(full.state.ids, bare.state.ids)


def test_only_an_eager_decode_without_events_runs_in_inference_mode():
    modes = []

    def script(position, fed):
        modes.append(torch.is_inference_mode_enabled())
        return 1

    engine = BlockDecoder(ScriptedDenoiser(script), ThresholdDecoder(0.0))
    engine.decode([[0]], 3)
    assert set(modes) == {True}
    modes.clear()
    list(engine.forwards([[0]], 3))
    assert set(modes) == {False}


def test_the_prompts_given_are_left_as_they_are():
    prompts = [[1, 2, 3, 4, 5]]
    decode(digits, prompts)
    assert prompts == [[1, 2, 3, 4, 5]]


@pytest.mark.parametrize(
    ("prompts", "max_new_tokens", "message"),
    [
        ([], 4, "prompts: expected at least one, got an empty list"),
        ([[0]], 0, "max_new_tokens: expected at least 1, got 0"),
        ([[0], [0] * 32], 4, r"prompts\[1\]: expected at most 31 tokens \(the context holds 32\), got 32"),
        ([[0, 10]], 4, r"prompts\[0\]: expected token ids from 0 to 9, got 0 to 10"),
        ([[-1]], 4, r"prompts\[0\]: expected token ids from 0 to 9, got -1 to -1"),
    ],
)
def test_bad_prompts_and_budgets_are_refused(prompts, max_new_tokens, message):
    with pytest.raises(UserError, match=message):
        decode(digits, prompts, max_new_tokens)


@pytest.mark.parametrize("option", ["batch_size", "max_forwards"])
def test_bad_engine_options_are_refused(option):
    with pytest.raises(UserError, match=f"{option}: expected at least 1.*, got 0"):
        BlockDecoder(ScriptedDenoiser(digits), ThresholdDecoder(), **{option: 0})


def test_a_decoder_with_a_memory_keeps_it_per_row():
    class Patient(ThresholdDecoder):
        """Waits for as many forwards as the block's first token says, then takes everything."""

        def start(self, ids, editable, special):
            state = super().start(ids, editable, special)
            state.memory["wait"] = ids[:, 0].clone()
            return state

        def step(self, state, logits, special):
            wait = state.memory["wait"] - 1
            done = (wait <= 0)[:, None]
            ids = torch.where(done & state.masked, logits.argmax(-1), state.ids)
            masked = state.masked & ~done
            return state.advance(ids, masked, ~masked.any(1), memory={"wait": wait})

    prompts = [[3, 0], [1, 0], [2, 0], [4, 0]]
    rows, _ = decode(digits, prompts, max_new_tokens=2, decoder=Patient(max_steps=9), batch_size=3)
    assert [row.num_forwards for row in rows] == [3, 1, 2, 4]


@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
def test_a_prompt_of_which_the_model_computes_no_finite_numbers_is_named(window, number):
    class Overflowing(ScriptedDenoiser):
        def hidden(self, allowed, position_ids, cache=None, inputs_embeds=None):
            hidden = super().hidden(allowed, position_ids, cache, inputs_embeds)
            return torch.where((position_ids == 17).unsqueeze(-1), number, hidden)

        def logits(self, hidden):
            return super().logits(hidden.nan_to_num())

    engine = BlockDecoder(Overflowing(digits), ThresholdDecoder(0.0), window=window)
    engine.decode([[1], [2] * 4], 11)
    with pytest.raises(UserError, match=r"^prompts\[1\]: expected finite hidden states of the model, got NaN"):
        engine.decode([[1], [2] * 9], 11)
