import json

import pytest

from dmaxlit.errors import UserError
from dmaxlit.tasks import TASKS, ChainTask, split_of, task


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
