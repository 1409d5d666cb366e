"""Properties of every admission policy."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor

from dmaxlit.decoding import BlockState, make_decoder
from dmaxlit.decoding.admission import AdmissionPolicy, make_admission
from dmaxlit.engine.checked_admission import CheckedAdmission
from dmaxlit.testing.blocks import NUM_ROWS, SPECIAL, difference, new_blocks, random_logits, start, take_step, walk
from dmaxlit.testing.property import Property, expect, reading_no_value, seed_global_generators

_DECODERS = ("spd", "t2m")  # one revises tokens, the other masks them again

AdmissionFactory = Callable[[], AdmissionPolicy]


def admission_properties(admission: str | type[AdmissionPolicy] | AdmissionPolicy, /, **options: Any) -> list[Property]:
    """Return what holds for every admission policy, to be tested one by one.

    ``@pytest.mark.parametrize("check", admission_properties(MyAdmission), ids=str)``.

    Args:
        admission: Registered name, import path, class or instance.
        options: Options of its constructor; an instance takes none.

    Raises:
        UserError: For an unknown name or option, an option of the wrong type or out of range, or an abstract class.
    """
    pristine = copy.deepcopy(make_admission(admission, **options))
    checks: dict[str, Callable[[AdmissionFactory], None]] = {
        "answers have the right types and shapes": _has_right_types,
        "a policy leaves its arguments unchanged": _leaves_arguments,
        "the same blocks get the same answers": _repeats,
        "rows do not depend on other rows": _ignores_other_rows,
        "a policy does not wait for the device": _reads_no_value,
    }
    return [Property(name, partial(check, partial(copy.deepcopy, pristine))) for name, check in checks.items()]


def _forwards() -> Iterator[tuple[BlockState, BlockState]]:
    """Yield blocks before and after forwards; they are at different steps, and one of them stays as it is."""
    for name in _DECODERS:
        decoder = make_decoder(name)
        steps = [(state, take_step(decoder, state, logits)) for state, logits in walk(decoder)]
        new = start(decoder)
        steps.insert(0, (new, new.advance(new.ids, new.masked, new.converged, new.soft)))
        for first in range(len(steps)):
            parts = [steps[(first + row) % len(steps)] for row in range(NUM_ROWS)]
            before, after = (_rows_of(states) for states in zip(*parts, strict=True))
            # Every other time all are front blocks.
            yield replace(before, progress_before=torch.linspace(0, 1, NUM_ROWS)) if first % 2 else before, after


def _rows_of(states: Sequence[BlockState]) -> BlockState:
    """Return the first row of the first state, the second of the second, and so on."""
    rows = [state.select(torch.tensor([row])) for row, state in enumerate(states)]
    return reduce(BlockState.join, rows)


def _answers(policy: AdmissionPolicy, before: BlockState, after: BlockState) -> dict[str, Tensor | None]:
    """Return what both methods answer.

    Raises:
        UserError: If it is of another type or shape.
    """
    checked = CheckedAdmission(policy)
    return {
        "admit": checked.admit(before, after),
        "restarts_behind": checked.restarts_behind(before, after),
    }


def _first_difference(one: dict[str, Tensor | None], other: dict[str, Tensor | None]) -> str | None:
    """Return the first method that answers differently, or None."""
    for name, answer in one.items():
        again = other[name]
        if answer is None or again is None:
            if answer is not again:
                return name
        elif not torch.equal(answer, again):
            return name
    return None


def _has_right_types(make: AdmissionFactory) -> None:
    for before, after in _forwards():
        _answers(make(), before, after)


def _leaves_arguments(make: AdmissionFactory) -> None:
    policy = make()
    for before, after in _forwards():
        kept = copy.deepcopy((before, after))
        _answers(policy, before, after)
        for name, state, copied in zip(("before", "after"), (before, after), kept, strict=True):
            changed = difference(state, copied)
            expect(
                changed is None,
                f"expected a policy to leave its arguments unchanged, but it wrote to {changed} of {name}; use "
                "torch.where",
            )


def _repeats(make: AdmissionFactory) -> None:
    policy = make()
    for number, (before, after) in enumerate(_forwards()):
        answers: list[dict[str, Tensor | None]] = []
        for one in (policy, policy, make()):
            seed_global_generators(number + len(answers))
            answers.append(_answers(one, before, after))
        changed = _first_difference(answers[0], answers[1]) or _first_difference(answers[0], answers[2])
        expect(
            changed is None,
            f"expected the same answer for the same blocks, but that of {changed} differs; keep nothing from one "
            "forward to the next, and draw nothing",
        )


def _ignores_other_rows(make: AdmissionFactory) -> None:
    policy = make()
    for before, after in _forwards():
        together = _answers(policy, before, after)
        for rows in ([0], [1], [2], [3], [4], [3, 1, 4, 0, 2]):
            index = torch.tensor(rows)
            expected = {name: None if answer is None else answer[index] for name, answer in together.items()}
            changed = _first_difference(expected, _answers(policy, before.select(index), after.select(index)))
            expect(
                changed is None,
                f"expected the same answer for a row in any batch, but that of {changed} differs; reduce over the "
                "positions of a block (dim 1), not over rows",
            )


def _reads_no_value(make: AdmissionFactory) -> None:
    decoder, new = make_decoder(_DECODERS[0]), new_blocks()
    before = decoder.start(new.ids.to("meta"), new.editable.to("meta"), SPECIAL)
    after = decoder.step(before, random_logits(decoder, 0).to("meta"), SPECIAL)
    with reading_no_value("a policy"):
        _answers(make(), before, after)
