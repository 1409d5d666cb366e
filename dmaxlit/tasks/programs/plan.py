"""What a program does: the list it makes of its argument, steps on the list, and the result; and its hidden tests."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dmaxlit.randomness import stable_seed
from dmaxlit.tasks.base import Split, split_of
from dmaxlit.tasks.drawing import pick
from dmaxlit.tasks.programs.inputs import INPUTS, Input
from dmaxlit.tasks.programs.operation import Operation, Step
from dmaxlit.tasks.programs.operations import ENDS, OPERATIONS

__all__ = ["Plan", "draw_plan"]

_NUM_TESTS = 8
_FEWEST_RESULTS = 2
_LONGEST = 200  # characters of a result


@dataclass(frozen=True)
class Plan:
    """A program, whatever its wording and code.

    Args:
        input: Its argument.
        steps: What it does to the list.
        end: What it returns.
    """

    input: Input
    steps: tuple[Step, ...]
    end: Step

    @property
    def key(self) -> str:
        """A text that is the same for the same steps only; other steps may compute the same."""
        return " | ".join([self.input.name, *(step.key for step in self.steps), self.end.key])

    def run(self, argument: Any) -> Any:
        """Return the result for an argument."""
        values = self.input.meaning(argument)
        for step in self.steps:
            values = step.run(values)
        return self.end.run(values)

    def arguments(self) -> list[Any]:
        """Return the arguments of the hidden tests, the same for the same program."""
        rng = random.Random(stable_seed("programs", self.key))
        drawn = [self.input.draw(rng) for _ in range(_NUM_TESTS)]
        return [*drawn, self.input.least]

    def is_sound(self) -> bool:
        """Return whether the hidden tests tell the program from others: each step matters, and results differ."""
        arguments = self.arguments()
        results = [self.run(argument) for argument in arguments]
        if len({repr(result) for result in results}) < _FEWEST_RESULTS or max(map(len, map(repr, results))) > _LONGEST:
            return False
        return all(
            [self._without(number).run(argument) for argument in arguments] != results
            for number in range(len(self.steps))
        )

    def _without(self, number: int) -> "Plan":
        return Plan(self.input, self.steps[:number] + self.steps[number + 1 :], self.end)


def draw_plan(rng: random.Random, fewest: int, most: int, split: Split | None = None) -> Plan:
    """Draw a program of ``fewest`` to ``most`` steps that its hidden tests tell from others.

    Args:
        rng: Draws it.
        fewest: Least number of steps.
        most: Most.
        split: The split that it has to belong to; any by default.
    """
    while True:
        argument = pick(rng, INPUTS)
        count = fewest + int(rng.random() * (most - fewest + 1))
        steps = tuple(_draw(rng, OPERATIONS[argument.item]) for _ in range(count))
        plan = Plan(argument, steps, _draw(rng, ENDS[argument.item]))
        has_repeats = len({step.operation.name for step in steps}) < len(steps)
        if not has_repeats and split in (None, split_of(plan.key)) and plan.is_sound():
            return plan


def _draw(rng: random.Random, operations: Sequence[Operation]) -> Step:
    # The kind is drawn first, so that there are as many filters as maps.
    kind = pick(rng, sorted({operation.kind for operation in operations}))
    operation = pick(rng, [operation for operation in operations if operation.kind == kind])
    return Step(operation, pick(rng, operation.parameters))
