import hashlib

import pytest

from dmaxlit.errors import UserError
from dmaxlit.sandbox import SandboxSettings, isolation
from dmaxlit.sandbox.isolation import level_of
from dmaxlit.tasks import task
from tests.sandbox.requirement import needs_sandbox

DIFFICULTIES = ["easy", "standard", "hard"]


@needs_sandbox
@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_a_worked_answer_is_right_and_a_changed_one_is_not(difficulty):
    examples = task("programs", difficulty=difficulty).examples("test", 2)
    for example in examples:
        assert example.check(example.response)
        assert example.check(f"Here it is:\n```python\n{example.response}\n```")
        assert not example.check(example.response.replace("return", "return not", 1))
    assert not examples[0].check(examples[1].response)
    assert not examples[0].check("")


@needs_sandbox
def test_splits_share_no_program_and_a_longer_list_begins_with_the_shorter_one():
    programs = task("programs")
    splits = {split: programs.examples(split, 150) for split in ("train", "val", "test")}
    answers = [{example.answer for example in examples} for examples in splits.values()]
    assert [len(keys) for keys in answers] == [150] * 3
    assert not answers[0] & answers[1] | answers[1] & answers[2] | answers[0] & answers[2]
    assert programs.examples("val", 40) == splits["val"][:40]


@needs_sandbox
def test_seeds_share_no_program_across_splits_either():
    first, second = task("programs", difficulty="easy"), task("programs", difficulty="easy", seed=7)
    trained = {example.answer for example in first.examples("train", 400)}
    tested = {example.answer for example in second.examples("test", 200)}
    assert not trained & tested
    assert [example.prompt for example in first.examples("test", 5)] != [
        example.prompt for example in second.examples("test", 5)
    ]


@needs_sandbox
def test_examples_are_the_same_on_every_machine():
    text = "".join(
        f"{example.prompt}\n{example.response}\n"
        for difficulty in DIFFICULTIES
        for example in task("programs", difficulty=difficulty).examples("val", 100)
    )
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "77773296dd17582b"


@needs_sandbox
def test_a_record_says_how_answers_are_separated():
    assert task("programs").record()["sandbox"] == level_of(SandboxSettings())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"difficulty": "x"}, "difficulty: expected 'easy', 'standard' or 'hard', got 'x'"),
        ({"sandbox": "x"}, "sandbox: expected 'auto', 'bubblewrap', 'namespaces' or 'rlimits', got 'x'"),
        ({"seed": "a"}, "seed: expected"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        task("programs", **options)


@needs_sandbox
def test_more_programs_than_there_are_are_refused(monkeypatch):
    monkeypatch.setattr("dmaxlit.tasks.programs.task._PATIENCE", 3)
    with pytest.raises(UserError, match=r"^n: expected at most \d+ test prompts of easy difficulty, got 100000"):
        task("programs", difficulty="easy").examples("test", 100_000)


def test_an_unknown_split_is_refused():
    with pytest.raises(UserError, match="split: expected one of train, val, test, got 'dev'"):
        task("programs").examples("dev", 1)


@pytest.mark.filterwarnings("ignore::dmaxlit.errors.DMaxWarning")
def test_without_a_sandbox_it_can_be_trained_on_but_not_judged(monkeypatch):
    monkeypatch.setattr(isolation, "reason_against", lambda level: None if level == "rlimits" else "no such thing")
    programs = task("programs")
    assert programs.examples("train", 1)
    for judge in (programs.record, lambda: programs.examples("test", 1)):
        with pytest.raises(UserError, match=r"sandbox: .*\(--task.sandbox rlimits, of evaluate --task.programs.sand"):
            judge()
    assert task("programs", sandbox="rlimits").examples("test", 1)
