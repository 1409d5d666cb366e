import json
import pickle

import pytest

from dmaxlit.errors import UserError
from dmaxlit.tasks import TASKS, ChainTask, TooFewExamplesError, split_of, task
from dmaxlit.tasks.base import first_examples


def test_built_in_tasks_are_registered():
    assert {"chain", "jsonl", "reasoning_gym", "stories", "stories_reading"} <= set(TASKS)


def test_unknown_task_lists_the_known_ones():
    with pytest.raises(UserError, match=r"unknown task 'chian'; known: .*chain, .*jsonl"):
        task("chian")


def test_unknown_option_lists_the_known_ones():
    with pytest.raises(UserError, match=r"task 'chain': unknown option dificulty; known: difficulty"):
        task("chain", dificulty="easy")


def test_missing_option_is_named():
    with pytest.raises(UserError, match="expected the option dataset"):
        task("reasoning_gym")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("chain", {"difficulty": "hard", "seed": 3}),
        ("stories", {"difficulty": "easy", "question": "first", "words": 20, "check": "steps"}),
        ("jsonl", {"path": "x.jsonl", "match": "numeric", "max_new_tokens": 7}),
    ],
)
def test_options_rebuild_the_task(name, options):
    original = task(name, **options)
    assert options.items() <= original.options().items()
    rebuilt = task(name, **json.loads(json.dumps(original.options())))
    assert rebuilt.options() == original.options()
    assert rebuilt.max_new_tokens == original.max_new_tokens


def test_a_task_that_returns_fewer_examples_than_asked_for_is_refused(monkeypatch):
    examples = ChainTask.examples
    monkeypatch.setattr(ChainTask, "examples", lambda self, split, n: examples(self, split, min(n, 3)))
    assert len(first_examples(ChainTask(), "val", 3, 100, "num_val")) == 3
    assert len(first_examples(ChainTask(), "val", None, 100, "num_val")) == 3
    with pytest.raises(UserError, match=r"^num_val: expected at most 3 val prompts, got 4$"):
        first_examples(ChainTask(), "val", 4, 100, "num_val")


def test_options_that_a_task_passes_on_are_among_its_own():
    class Longer(ChainTask):
        def __init__(self, more: int = 1, **options):
            super().__init__(**options)
            self.more = more

    options = task(Longer, seed=3, more=2).options()
    assert options == {**ChainTask(seed=3).options(), "more": 2}
    assert Longer(**options).options() == options


def test_split_shares_are_80_10_10():
    splits = [split_of(f"prompt {i}") for i in range(20_000)]
    shares = {name: splits.count(name) / len(splits) for name in set(splits)}
    assert shares == pytest.approx({"train": 0.8, "val": 0.1, "test": 0.1}, abs=0.01)


def test_split_of_a_prompt_never_changes():
    assert [split_of(f"{i}") for i in range(12)] == PINNED


PINNED = ["test", "train", "train", "train", "train", "val", "train", "train", "train", "train", "train", "train"]


@pytest.mark.parametrize(
    ("name", "options", "split"),
    [
        ("chain", {"operations": 3}, "val"),
        ("dependency", {"kind": "copy", "length": 3}, "val"),
        ("mini_sudoku", {"blanks": 1}, "val"),
        ("programs", {"difficulty": "easy"}, "train"),
    ],
)
def test_all_are_taken_of_a_split_with_fewer_than_the_default(name, options, split, monkeypatch):
    for module, patience in (("dependency", 30), ("sudoku", 60), ("programs.task", 0)):
        monkeypatch.setattr(f"dmaxlit.tasks.{module}._PATIENCE", patience)
    drawn = task(name, **options)
    for _ in range(2):  # what there is does not depend on what was asked for before
        with pytest.raises(TooFewExamplesError, match=r"^n: expected at most \d+ .* got 50000$") as refused:
            drawn.examples(split, 50_000)
    assert first_examples(drawn, split, None, 50_000, "num_val") == drawn.examples(split, refused.value.available)
    assert first_examples(task(name, **options), split, None, 50_000, "num_val") == drawn.examples(
        split, refused.value.available
    )
    assert len(first_examples(drawn, split, None, 5, "num_val")) == 5
    with pytest.raises(UserError, match=r"^num_val: expected at most \d+ .* got 50000$"):
        first_examples(drawn, split, 50_000, 5, "num_val")


def test_that_there_are_too_few_reaches_other_processes():
    error = pickle.loads(pickle.dumps(TooFewExamplesError(3, "val prompts", 5)))
    assert (error.available, str(error)) == (3, "n: expected at most 3 val prompts, got 5")
