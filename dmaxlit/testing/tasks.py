"""Properties of every task."""

import itertools
import json
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

from dmaxlit.errors import UserError, describe_value
from dmaxlit.factory import make_by_name
from dmaxlit.tasks import TASKS, Example, Split, Task, TooFewExamplesError
from dmaxlit.tasks.base import examples_up_to
from dmaxlit.testing.property import Property, expect, seed_global_generators

_SPLITS: tuple[Split, ...] = ("train", "val", "test")
_MOST = 10  # examples of a split


def task_properties(task: str | type[Task] | Task, /, **options: Any) -> list[Property]:
    """Return what holds for every task, to be tested one by one.

    ``@pytest.mark.parametrize("check", task_properties(MyTask), ids=str)``. The first 10 examples of each split are
    looked at, or all if it has fewer, and the first one's checker is called.

    Args:
        task: Registered name, import path, class or instance.
        options: Options of its constructor; an instance takes none.

    Raises:
        UserError: For an unknown name or option, an option of the wrong type or out of range, or an abstract class.
    """
    subject = _Subject(partial(make_by_name, "task", TASKS, Task, task, options))
    checks: dict[str, Callable[[_Subject], None]] = {
        "examples have the right types": _has_right_types,
        "checkers answer true or false, and accept the worked response": _judges,
        "the same examples come again": _repeats,
        "a longer list begins with the shorter one": _begins_alike,
        "splits share no prompt": _shares_no_prompt,
        "options rebuild the task": _is_rebuilt,
    }
    return [Property(name, partial(check, subject)) for name, check in checks.items()]


class _Subject:
    """A task with its first examples, which may take long to draw.

    Args:
        make: Makes the task, anew each time.
    """

    def __init__(self, make: Callable[[], Task]) -> None:
        self.make, self.task = make, make()

    @cached_property
    def examples(self) -> dict[Split, list[Example]]:
        """The first examples of each split."""
        return _examples(self.task)


def _examples(task: Task) -> dict[Split, list[Example]]:
    return {split: examples_up_to(task, split, _MOST) for split in _SPLITS}


def _number(task: Task, split: Split) -> int:
    """Return how many examples of a split there are by what the task says, 10 at most."""
    if (available := task.count(split)) is None:
        try:
            task.examples(split, _MOST)
        except TooFewExamplesError as error:
            available = error.available
    return _MOST if available is None else min(_MOST, available)


def _refuses(task: Task, split: Split, number: int) -> bool:
    try:
        task.examples(split, number)
    except UserError:
        return True
    return False


def _contents(examples: Sequence[Example]) -> list[tuple[Any, ...]]:
    return [(one.prompt, one.answer, one.response, dict(one.extra)) for one in examples]


def _has_right_types(subject: _Subject) -> None:
    for split, examples in subject.examples.items():
        is_list = isinstance(examples, list) and all(isinstance(one, Example) for one in examples)
        expect(is_list, f"expected examples to return a list of Example, got {describe_value(examples)}")
        number = _number(subject.task, split)
        expect(
            len(examples) == number, f"expected {number} examples of {split}, as many as asked for, got {len(examples)}"
        )
        available = subject.task.count(split)
        expect(
            available is None or _refuses(subject.task, split, available + 1),
            f"expected a TooFewExamplesError for one example of {split} more than count says, got none",
        )
        for one in examples:
            for name, optional in (("prompt", False), ("answer", False), ("response", True)):
                value = getattr(one, name)
                is_text = isinstance(value, str) or (optional and value is None)
                expect(is_text, f"expected {name} of an example to be a text, got {describe_value(value)}")
    budget = subject.task.max_new_tokens
    is_number = isinstance(budget, int) and not isinstance(budget, bool) and budget >= 1
    expect(is_number, f"expected max_new_tokens to be a whole number of at least 1, got {budget!r}")


def _judges(subject: _Subject) -> None:
    for split, examples in subject.examples.items():
        for one in examples[:1]:
            right = one.check(one.answer if one.response is None else one.response)
            expect(isinstance(right, bool), f"expected the checker to return a bool, got {describe_value(right)}")
            expect(
                right or one.response is None,
                f"expected the checker to accept the worked response of the first example of {split}, but it does not",
            )


def _repeats(subject: _Subject) -> None:
    for seed, task in enumerate((subject.task, subject.make())):
        seed_global_generators(seed)
        for split, examples in _examples(task).items():
            expect(
                _contents(examples) == _contents(subject.examples[split]),
                f"expected the same examples of {split} whenever they are asked for, got others; draw them from a "
                "generator that is seeded by the split and the options alone",
            )


def _begins_alike(subject: _Subject) -> None:
    for split, examples in subject.examples.items():
        number = len(examples) // 2
        expect(
            _contents(subject.task.examples(split, number)) == _contents(examples[:number]),
            f"expected the first {number} examples of {split} to begin a list of {len(examples)}, got others",
        )


def _shares_no_prompt(subject: _Subject) -> None:
    prompts = {split: {one.prompt for one in examples} for split, examples in subject.examples.items()}
    for one, other in itertools.combinations(_SPLITS, 2):
        shared = prompts[one] & prompts[other]
        expect(
            not shared,
            f"expected {one} and {other} to share no prompt, but they share {len(shared)}; dmaxlit.tasks.split_of says "
            "where a prompt belongs",
        )


def _is_rebuilt(subject: _Subject) -> None:
    try:
        stored = json.loads(json.dumps(subject.task.options()))
    except (AttributeError, TypeError) as error:
        expect(False, f"expected options to be JSON values, each stored under its own name, got others ({error})")
    again = type(subject.task)(**stored)
    expect(
        json.loads(json.dumps(again.options())) == stored,
        f"expected the task that is made of its options to have the same ones, got {again.options()} for {stored}",
    )
    for split, examples in _examples(again).items():
        expect(
            _contents(examples) == _contents(subject.examples[split]),
            f"expected the task that is made of its options to have the same examples of {split}, got others",
        )
