"""Each property of a task is broken by one task below, and found."""

import random

import pytest

from dmaxlit import UserError
from dmaxlit.tasks import ChainTask, Example, Task, TooFewExamplesError
from dmaxlit.testing import task_properties
from tests.testing.broken import assert_found, failures


class Own(Task):
    """Sums; right, of which each below changes one thing."""

    max_new_tokens = 8

    def __init__(self, most: int = 50):
        self.most = most

    def examples(self, split, n):
        return [self.example(a, b) for a, b in self.pairs(split, n)]

    def pairs(self, split, n):
        first = {"train": 0, "val": 100, "test": 200}[split]
        return [(first + number, number % self.most) for number in range(n)]

    def example(self, a, b):
        return Example(f"{a} + {b} =", str(a + b), lambda text: text == str(a + b), str(a + b))


class NumbersAsAnswers(Own):
    def example(self, a, b):
        return Example(f"{a} + {b} =", a + b, lambda text: True)


class TooFew(Own):
    def pairs(self, split, n):
        return super().pairs(split, min(n, 3))


class ReturnsWhatThereIs(Own):
    def count(self, split):
        return 12

    def pairs(self, split, n):
        return super().pairs(split, min(n, 12))


class NoBudget(Own):
    max_new_tokens = 0


class RefusesItsOwn(Own):
    def example(self, a, b):
        return Example(f"{a} + {b} =", str(a + b), lambda text: text == f"#### {a + b}", str(a + b))


class ScoresText(Own):
    def example(self, a, b):
        return Example(f"{a} + {b} =", str(a + b), lambda text: float(text == str(a + b)))


class Draws(Own):
    def pairs(self, split, n):
        return [(a, random.randrange(self.most)) for a, _ in super().pairs(split, n)]


class GoesOn(Own):
    def __init__(self, most: int = 50):
        super().__init__(most)
        self.random = random.Random(0)

    def pairs(self, split, n):
        return [(a, self.random.randrange(self.most)) for a, _ in super().pairs(split, n)]


class LongestFirst(Own):
    def pairs(self, split, n):
        return super().pairs(split, n)[::-1]


class OneSplit(Own):
    def pairs(self, split, n):
        return super().pairs("train", n)


class UnderAnotherName(Own):
    def __init__(self, most: int = 50):
        self._most = most

    def pairs(self, split, n):
        return [(a, b) for a, b in Own(self._most).pairs(split, n)]


class ForgetsItsOption(Own):
    def __init__(self, most: int = 50):
        super().__init__(7)
        self.given = most

    def pairs(self, split, n):
        return Own(self.given).pairs(split, n)

    def options(self):
        return {"most": self.most}


BROKEN = {
    NumbersAsAnswers: (
        "examples have the right types",
        "expected answer of an example to be a text, got a value of type",
    ),
    TooFew: ("examples have the right types", "expected 10 examples of train, as many as asked for, got 3"),
    ReturnsWhatThereIs: ("examples have the right types", "for one example of train more than count says, got none"),
    NoBudget: ("examples have the right types", "expected max_new_tokens to be a whole number of at least 1, got 0"),
    RefusesItsOwn: (
        "checkers answer true or false, and accept the worked response",
        "to accept the worked response of the first example of train, but it does not",
    ),
    ScoresText: (
        "checkers answer true or false, and accept the worked response",
        "expected the checker to return a bool, got a value of type float",
    ),
    Draws: ("the same examples come again", "expected the same examples of train whenever they are asked for"),
    GoesOn: ("the same examples come again", "expected the same examples of train whenever they are asked for"),
    LongestFirst: (
        "a longer list begins with the shorter one",
        "expected the first 5 examples of train to begin a list",
    ),
    OneSplit: ("splits share no prompt", "expected train and val to share no prompt, but they share 10"),
    UnderAnotherName: ("options rebuild the task", "each stored under its own name, got others"),
    ForgetsItsOption: ("options rebuild the task", "to have the same examples of train, got others"),
}


@pytest.mark.parametrize("cls", BROKEN, ids=lambda cls: cls.__name__)
def test_a_broken_property_is_found_by_its_own_test(cls):
    assert_found(task_properties(cls), *BROKEN[cls])


def test_every_property_is_broken_by_a_task_above():
    assert {str(check) for check in task_properties(Own)} == {name for name, _ in BROKEN.values()}


class OnlyThree(Own):
    def pairs(self, split, n):
        if n > 3:
            raise TooFewExamplesError(3, f"{split} prompts", n)
        return super().pairs(split, n)


@pytest.mark.parametrize("task", [Own, Own(3), OnlyThree, ChainTask(difficulty="easy"), "stories_reading"], ids=str)
def test_a_right_task_has_every_property(task):
    assert failures(task_properties(task)) == {}


def test_the_few_rows_of_a_file_are_enough(tmp_path):
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(f'{{"prompt": "{n} + 1 =", "answer": "{n + 1}"}}\n' for n in range(4)))
    assert failures(task_properties("jsonl", path=str(path), match="numeric")) == {}


def test_what_cannot_be_made_is_refused():
    with pytest.raises(UserError, match="task: expected a class that implements examples, max_new_tokens, got Task"):
        task_properties(Task)
    with pytest.raises(UserError, match="task 'chain': unknown option dificulty; known: difficulty"):
        task_properties("chain", dificulty="easy")
