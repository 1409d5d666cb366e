import builtins
import pickle

import pytest

from dmaxlit.errors import UserError
from dmaxlit.tasks import TooFewExamplesError, split_of, task


@pytest.fixture
def library():
    return pytest.importorskip("reasoning_gym")


def test_splits_share_no_question_and_repeat_none(library):
    gym = task("reasoning_gym", dataset="leg_counting", config={"max_animals": 4})
    prompts = {split: [e.prompt for e in gym.examples(split, 40)] for split in ("train", "val", "test")}
    for split, questions in prompts.items():
        assert len(set(questions)) == 40
        assert {split_of(prompt) for prompt in questions} == {split}
    assert len(set().union(*prompts.values())) == 120


def test_examples_are_the_same_again_and_prefix_stable(library):
    gym, again = (task("reasoning_gym", dataset="gsm_symbolic", seed=3) for _ in range(2))
    assert gym.examples("test", 12)[:5] == again.examples("test", 5)
    assert gym.examples("test", 5) != task("reasoning_gym", dataset="gsm_symbolic").examples("test", 5)


def test_answers_are_scored_by_the_library(library):
    (example,) = task("reasoning_gym", dataset="gsm_symbolic").examples("val", 1)
    assert example.response is None
    assert example.check(example.answer)
    assert example.check(f"some work, 12 of it\n#### {example.answer}")
    assert example.check(f"some work <answer>{example.answer}</answer> and more")
    assert not example.check(f"{int(example.answer) + 1}")
    assert not example.check("")


def test_a_lower_score_can_count_as_right(library):
    strict, lenient = (
        task("reasoning_gym", dataset="spell_backward", min_score=s).examples("val", 1)[0] for s in (1.0, 0.05)
    )
    text = f"it is {strict.answer} I think"
    source, entry = strict.checker.source, strict.checker.entry
    assert 0.05 <= source.score_answer(text, entry) < 1.0
    assert not strict.check(text)
    assert lenient.check(text)


def test_a_scorer_that_fails_on_nonsense_says_wrong(library, monkeypatch):
    (example,) = task("reasoning_gym", dataset="leg_counting").examples("val", 1)
    monkeypatch.setattr(type(example.checker.source), "score_answer", lambda *_: 1 / 0, raising=False)
    assert example.check("anything") is False


@pytest.mark.parametrize("dataset", ["coin_flip", "countdown"])
@pytest.mark.parametrize("answer", ["1e999999999", "1E-9,999,999,99"])
def test_a_number_that_takes_forever_to_compute_is_wrong(library, dataset, answer):
    if dataset not in library.factory.DATASETS:
        pytest.skip(f"this reasoning-gym has no {dataset}")
    (example,) = task("reasoning_gym", dataset=dataset, size=100).examples("val", 1)
    assert not example.check(f"<answer>{answer}</answer>")
    assert example.check(example.answer)


@pytest.mark.parametrize(("dataset", "move"), [("rubiks_cube", "R"), ("rush_hour", "A+")])
def test_a_move_without_end_is_wrong(library, dataset, move):
    (example,) = task("reasoning_gym", dataset=dataset, size=100).examples("val", 1)
    assert not example.check(f"<answer>{move}1 {move}999999999</answer>")


def test_a_reference_may_look_like_such_a_number(library):
    (example,) = task("reasoning_gym", dataset="base_conversion").examples("val", 1)
    example.checker.entry["answer"] = "7e4512"
    assert example.check("<answer>7e4512</answer>")
    assert not example.check("<answer>7e4513</answer>")


def test_without_a_reference_the_answer_is_empty(library):
    (example,) = task("reasoning_gym", dataset="boxnet", size=100).examples("val", 1)
    assert example.answer == ""
    assert not example.check("")


def test_checkers_travel_between_processes(library):
    example = pickle.loads(pickle.dumps(task("reasoning_gym", dataset="leg_counting").examples("val", 1)[0]))
    assert example.check(example.answer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "nope"}, "has no data set 'nope'"),
        ({"dataset": "leg_counting", "config": {"legs": 3}}, "'leg_counting' refuses {'legs': 3}: .*legs"),
        ({"dataset": "leg_counting", "config": {"min_animals": -3}}, "refuses .*min_animals must be positive"),
        ({"dataset": "leg_counting", "config": {"seed": 3}}, "config: expected no seed"),
        ({"dataset": "leg_counting", "min_score": 0.0}, r"min_score: expected a number in \(0, 1\], got 0.0"),
        ({"dataset": "leg_counting", "max_new_tokens": 0}, "max_new_tokens: expected at least 1"),
        ({"dataset": "leg_counting", "size": 0}, "size: expected at least 1"),
    ],
)
def test_bad_options_are_refused(library, options, message):
    with pytest.raises(UserError, match=message):
        task("reasoning_gym", **options)


def test_too_few_questions_are_refused(library):
    gym = task("reasoning_gym", dataset="leg_counting", size=50)
    with pytest.raises(TooFewExamplesError, match=r"n: .* \d+ test prompts of 'leg_counting' .*got 100") as few:
        gym.examples("test", 100)
    assert len(gym.examples("test", few.value.available)) == few.value.available


def test_without_the_library_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("reasoning_gym"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pip install -e '\.\[gym\]'"):
        task("reasoning_gym", dataset="gsm_symbolic")
