"""Properties of every decoder."""

import copy
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from dmaxlit.decoding import BlockState, Decoder
from dmaxlit.decoding.base import Sampling
from dmaxlit.engine.state_rules import STATE_RULES, StateRule
from dmaxlit.testing.blocks import (
    LENGTH,
    NUM_LOGITS,
    NUM_ROWS,
    SPECIAL,
    DecoderFactory,
    decoder_factory,
    difference,
    make_checks,
    new_blocks,
    random_logits,
    run,
    start,
    take_step,
    walk,
)
from dmaxlit.testing.property import Property, changed_generator, expect, reading_no_value, seed_global_generators

_MOST_STEPS = 50 * LENGTH


def decoder_properties(decoder: str | type[Decoder] | Decoder, /, **options: Any) -> list[Property]:
    """Return what holds for every decoder, to be tested one by one.

    ``@pytest.mark.parametrize("check", decoder_properties(MyDecoder), ids=str)``.

    Args:
        decoder: Registered name, import path, class or instance.
        options: Options of its constructor; an instance takes none.

    Raises:
        UserError: For an unknown name or option, an option of the wrong type or out of range, or an abstract class.
    """
    make = decoder_factory(decoder, options)
    make()
    checks: dict[str, Callable[[DecoderFactory], None]] = {
        "max_steps is a bound": partial(_has_bound, not isinstance(decoder, Decoder)),
        "states have the right types and shapes": _has_right_types,
        **{rule.name: partial(_keeps_rule, rule) for rule in STATE_RULES},
        "soft tokens and memory are there from the start": _keeps_optional_tensors,
        "new blocks begin at step 0": _begins_at_zero,
        "a step counts a forward": _counts,
        "a step leaves its arguments unchanged": _leaves_arguments,
        "the same state gives the same result": _repeats,
        "global random generators are not used": _leaves_global_generators,
        "rows do not depend on other rows": _ignores_other_rows,
        "certain predictions become the answer by max_steps": _converges,
        "tokens are drawn at a temperature": _obeys_temperature,
        "top_p near 0 takes the most probable tokens": _obeys_top_p,
        "a step does not wait for the device": _reads_no_value,
        "logits that are not needed do not matter": _ignores_unneeded_logits,
        "blocks attend to themselves, and the first to no other": _attends_rightly,
    }
    return [Property(name, partial(check, make)) for name, check in checks.items()]


def _has_bound(takes_options: bool, make: DecoderFactory) -> None:
    make_checks(make()).check_bound()
    if takes_options and "max_steps" in inspect.signature(type(make())).parameters and make()._max_steps is None:
        make_checks(make(max_steps=3)).check_bound()


def _has_right_types(make: DecoderFactory) -> None:
    for _ in walk(make()):
        pass


def _keeps_rule(rule: StateRule, make: DecoderFactory) -> None:
    new = new_blocks()
    for number, (state, _) in enumerate(walk(make())):
        broken = rule.broken(state, new)
        text = rule.text.format(last_id=SPECIAL.vocab_size - 1)
        expect(broken is None or not broken.any(), f"expected {'step' if number else 'start'} {text}")


def _keeps_optional_tensors(make: DecoderFactory) -> None:
    decoder = make()
    for state, logits in walk(decoder):
        make_checks(decoder).check_kept(state, take_step(decoder, state, logits))


def _begins_at_zero(make: DecoderFactory) -> None:
    state = start(make())
    expect(not state.step.any(), f"expected start to count no forward, got {state.step.tolist()}")
    expect(not state.converged.any(), "expected start to return blocks that have not converged, got some that have")


def _counts(make: DecoderFactory) -> None:
    decoder = make()
    for state, logits in walk(decoder):
        before = state.step.clone()
        counted = (take_step(decoder, state, logits).step - before).tolist()
        expect(counted == [1] * NUM_ROWS, f"expected step to count a forward (state.advance does), got {counted}")


def _leaves_arguments(make: DecoderFactory) -> None:
    decoder = make()
    for state, logits in walk(decoder):
        state_before, logits_before = copy.deepcopy(state), logits.clone()
        decoder.step(state, logits, SPECIAL)
        changed = difference(state, state_before)
        expect(
            changed is None, f"expected step to leave its state unchanged, but it wrote to {changed}; use torch.where"
        )
        expect(torch.equal(logits, logits_before), "expected step to leave logits unchanged, but it wrote to them")


def _repeats(make: DecoderFactory) -> None:
    decoder = make()
    for number, (state, logits) in enumerate(walk(decoder)):
        afters: list[BlockState] = []
        for one in (decoder, decoder, make()):
            seed_global_generators(number + len(afters))
            afters.append(take_step(one, state, logits))
        changed = difference(afters[0], afters[1]) or difference(afters[0], afters[2])
        expect(
            changed is None,
            f"expected step to return the same for the same state and logits, but {changed} differs; keep what "
            "a later step needs in memory of the state, and take random tokens from propose",
        )


def _leaves_global_generators(make: DecoderFactory) -> None:
    decoder = make()
    seed_global_generators(0)
    for _ in walk(decoder):
        pass
    name = changed_generator()
    expect(
        name is None,
        f"expected no use of global random generators, but that of {name} was used; take random tokens from propose",
    )


def _ignores_other_rows(make: DecoderFactory) -> None:
    decoder = make()
    for state, logits in walk(decoder):
        together = take_step(decoder, state, logits)
        for rows in ([0], [1], [2], [3], [4], [3, 1, 4, 0, 2]):
            index = torch.tensor(rows)
            changed = difference(together.select(index), take_step(decoder, state.select(index), logits[index]))
            expect(
                changed is None,
                f"expected the same result for a row in any batch, but {changed} differs; reduce over the positions "
                "of a block (dim 1), not over rows",
            )


def _converges(make: DecoderFactory) -> None:
    decoder, new = make(), new_blocks()
    answer = torch.where(new.editable, (new.ids + 1) % SPECIAL.mask_id, new.ids)
    logits = torch.full((*new.ids.shape, NUM_LOGITS), -torch.inf).scatter(-1, answer.unsqueeze(-1), 0.0)
    if decoder.extra_blocks:
        logits = logits.unsqueeze(1).expand(-1, 1 + decoder.extra_blocks, -1, -1)
    bound = decoder.max_steps(LENGTH)
    state = run(decoder, logits, min(bound, _MOST_STEPS))
    if decoder._max_steps is None:  # otherwise the option may allow too few
        expect(
            state.converged.all(),
            f"expected every block to converge within the {bound} forwards of max_steps when all predictions are "
            f"certain, but {int((~state.converged).sum())} of {NUM_ROWS} have not; mark converged, or raise max_steps",
        )
    wrong = state.converged.unsqueeze(1) & (state.ids != answer)
    expect(not wrong.any(), "expected a converged block to hold the tokens that are predicted with certainty")


def _sampled(make: DecoderFactory, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Decode with and without sampling; return which decided tokens differ, and which are decided."""
    decoder = make()
    logits = random_logits(decoder, 3)
    if decoder.extra_blocks:
        logits = logits[:, :1].expand_as(logits)
    draws = torch.rand(NUM_ROWS, LENGTH, generator=torch.Generator().manual_seed(2))
    sampling = Sampling(draws, torch.full((NUM_ROWS,), 4.0), torch.full((NUM_ROWS,), top_p))
    num_steps = min(decoder.max_steps(LENGTH), _MOST_STEPS)
    drawn, best = run(decoder, logits, num_steps, sampling), run(make(), logits, num_steps)
    return drawn.ids != best.ids, new_blocks().editable & ~drawn.masked & ~best.masked


def _obeys_temperature(make: DecoderFactory) -> None:
    differs, decided = _sampled(make, top_p=1.0)
    expect(
        decided.any(),
        "expected some positions to be decided both at temperature 0 and at 4 within the "
        f"{make().max_steps(LENGTH)} forwards of max_steps, got none; decide at least one position in each step, for "
        "instance with most_confident",
    )
    expect(
        (differs & decided).any(),
        "expected tokens drawn at temperature 4 to differ from the most probable ones, got the same; take tokens from "
        "propose(state, logits) instead of logits.argmax",
    )


def _obeys_top_p(make: DecoderFactory) -> None:
    differs, _ = _sampled(make, top_p=1e-6)
    expect(
        not differs.any(),
        "expected top_p near 0 to give the most probable tokens whatever the temperature, got others; take tokens "
        "from propose(state, logits)",
    )


def _reads_no_value(make: DecoderFactory) -> None:
    decoder, new = make(), new_blocks()
    state = decoder.start(new.ids.to("meta"), new.editable.to("meta"), SPECIAL)
    with reading_no_value("step"):
        for step in range(3):
            state = decoder.step(state, random_logits(decoder, step).to("meta"), SPECIAL)


def _ignores_unneeded_logits(make: DecoderFactory) -> None:
    decoder = make()
    for state, logits in walk(decoder):
        needed = decoder._needed_positions(state)
        if needed is None:
            continue
        expected = take_step(decoder, state, logits)
        blanked = torch.where(needed.unsqueeze(-1), logits, 0.0)
        afters = [take_step(decoder, state, blanked), decoder._step_sparse(state, logits[needed], needed, SPECIAL)]
        afters.append(Decoder._step_sparse(decoder, state, logits[needed], needed, SPECIAL))
        changed = next(filter(None, (difference(after, expected) for after in afters)), None)
        expect(
            changed is None,
            f"expected select and features to look at masked positions alone, each by itself, but {changed} depends on "
            "others; implement step instead, which gets all logits",
        )


def _attends_rightly(make: DecoderFactory) -> None:
    decoder = make()
    make_checks(decoder).check_block_mask()
    mask = decoder.block_attention_mask(LENGTH)
    expect(mask[:LENGTH, :LENGTH].all(), "expected every position of the block to attend to the whole block")
    expect(not mask[:LENGTH, LENGTH:].any(), "expected the block not to attend to its extra blocks, but it does")
    expect(mask.any(1).all(), "expected every position to attend to some position, but some attend to none")
