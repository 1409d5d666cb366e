import hashlib
import pickle
import re

import pytest

from dmaxlit.errors import UserError
from dmaxlit.tasks import task
from dmaxlit.tasks.stories.words import NAMES, PLACES, THINGS

DIFFICULTIES = ["easy", "standard", "hard"]
EQUATION = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")


def numbers(text):
    return [int(number) for number in re.findall(r"\d+", text)]


def answer_of(prompt):
    """Solve a word problem from its text alone, without the task's code."""
    sentences = re.split(r"(?<=[.?]) ", prompt)
    (question,) = (sentence for sentence in sentences if sentence.endswith("?"))
    have = {}
    for sentence in sentences:
        if sentence != question:
            read(sentence, have)
    who = [word for word in re.findall(r"\w+", question) if word in NAMES]
    (thing,) = (word for word in re.findall(r"\w+", question) if word in THINGS)
    return sum(have[name, thing] for name in who)


def read(sentence, have):
    words = re.findall(r"\w+", sentence)
    who = [word for word in words if word in NAMES]
    thing = next(word for word in reversed(words) if word in THINGS)
    n, key = numbers(sentence), (who[0], thing)
    if match := re.search(r"(\d+) times as many", sentence):
        have[key] = int(match[1]) * have[who[1], thing]
    elif "than" in words:
        have[key] = have[who[1], thing] + (n[0] if "more" in words else -n[0])
    elif key not in have:
        have[key] = n[0]
    elif "again" in words or "doubles" in words:
        have[key] *= 2
    elif "half" in words:
        have[key] //= 2
    elif "equally" in words:
        have[key] //= n[0]
    elif len(n) == 2:
        have[key] += n[0] * n[1]
    elif len(who) == 2:
        giver, receiver = reversed(who) if "from" in words else who
        have[giver, thing] -= n[0]
        have[receiver, thing] += n[0]
    else:
        losses = {"loses", "sells", "drops", "breaks", "forgets", "spoils", "ruins", "donates", "wastes", "misplaces"}
        have[key] += -n[0] if {*losses, "discards"} & set(words) else n[0]


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
@pytest.mark.parametrize("question", ["last", "first"])
def test_worked_answers_are_right_by_an_independent_reading_of_the_story(difficulty, question):
    for example in task("stories", difficulty=difficulty, question=question).examples("train", 150):
        assert answer_of(example.prompt) == int(example.answer)
        assert example.response.endswith(f"#### {example.answer}")
        assert example.check(example.response)
        for left, operator, right, result in EQUATION.findall(example.response):
            assert int(result) == eval(f"{left} {operator} {right}")


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_a_reference_answer_is_exact_and_a_wrong_number_in_it_is_found(difficulty):
    for example in task("stories", difficulty=difficulty).examples("val", 40):
        report = example.check_steps(example.response)
        assert (report.right, report.exact, report.final) == (report.total, True, True)
        first, _, rest = example.response.partition(". ")
        wrong = re.sub(r"\d+", lambda match: str(int(match[0]) + 1), first, count=1)
        assert wrong != first
        report = example.check_steps(f"{wrong}. {rest}")
        assert (report.right, report.exact, report.final) == (report.total - 1, False, True)


def test_steps_want_the_right_names_things_and_order():
    example = task("stories", difficulty="easy").examples("test", 1)[0]
    first, second, *rest = re.split(r"(?<=\.) ", example.response)
    step = example.steps[0]
    for text in (
        " ".join([first.replace(step.holding.person, "Nobody"), second, *rest]),
        " ".join([first.replace(step.holding.thing, "thoughts"), second, *rest]),
        " ".join([second, first, *rest]),
        " ".join([first, *rest]),
        " ".join([first, second, *rest, "Indeed."]),
        "",
    ):
        assert not example.check_steps(text).exact


def test_check_decides_what_is_right():
    final, steps = (task("stories", check=check).examples("test", 1)[0] for check in ("answer", "steps"))
    assert final == steps
    short = f"Surely #### {final.answer}"
    assert final.check(short)
    assert not steps.check(short)
    assert steps.check(steps.response)
    assert not final.check(f"#### {final.answer}0")
    assert not final.check(final.answer)


def test_question_moves_the_question_alone():
    last, first, either = (task("stories", question=q).examples("test", 40) for q in ("last", "first", "either"))
    for one, other, third in zip(last, first, either, strict=True):
        assert one.prompt.endswith("?")
        assert not other.prompt.endswith("?")
        assert set(re.split(r"(?<=[.?]) ", one.prompt)) == set(re.split(r"(?<=[.?]) ", other.prompt))
        assert third.prompt in (one.prompt, other.prompt)
    assert 10 < sum(example.prompt.endswith("?") for example in either) < 30


def test_splits_share_no_story_whatever_the_options():
    stories = {}
    for split in ("train", "val", "test"):
        for options in ({}, {"seed": 1}, {"question": "first"}):
            drawn = task("stories", difficulty="easy", words=4, **options).examples(split, 80)
            assert len({example.prompt for example in drawn}) == 80
            # A story is its numbers, names and things in order, however it is worded.
            keys = {tuple(w for w in example.prompt.split() if w.strip(".?") not in PLACES) for example in drawn}
            stories.setdefault(split, set()).update(tuple(sorted(key)) for key in keys)
    assert not stories["train"] & stories["test"]
    assert not stories["train"] & stories["val"]
    assert not stories["val"] & stories["test"]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_longer_list_begins_with_the_shorter(split):
    stories = task("stories")
    assert stories.examples(split, 12)[:5] == stories.examples(split, 5)


def test_words_bound_the_vocabulary():
    text = " ".join(example.prompt for example in task("stories", words=4).examples("train", 60))
    found = set(re.findall(r"\w+", text))
    for known in (NAMES, THINGS, PLACES):
        assert found & set(known) == set(known[:4])
    text = " ".join(example.prompt for example in task("stories", difficulty="easy").examples("train", 800))
    assert len(set(re.findall(r"\w+", text)) & {*NAMES, *THINGS, *PLACES}) > 1300


def test_standard_stories_have_what_does_not_matter():
    examples = task("stories").examples("train", 50)
    assert all(len(example.prompt.split(". ")) > 12 for example in examples)
    assert sum(len(numbers(example.prompt)) > len(example.steps) for example in examples) > 25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"difficulty": "brutal"}, "difficulty: expected 'easy', 'standard' or 'hard', got 'brutal'"),
        ({"question": "none"}, "question: expected 'last', 'first' or 'either', got 'none'"),
        ({"check": "all"}, "check: expected 'answer' or 'steps', got 'all'"),
        ({"words": 3}, "words: expected at least 4, a whole number, got 3"),
        ({"words": 5.5}, "words: expected int or none, got 5.5"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        task("stories", **options)


def test_an_unknown_split_is_refused():
    with pytest.raises(UserError, match="split: expected one of train, val, test, got 'dev'"):
        task("stories").examples("dev", 1)


def test_options_rebuild_the_task_and_checkers_are_picklable():
    stories = task("stories", difficulty="hard", question="either", words=9, check="steps", seed=3)
    assert task("stories", **stories.options()).examples("val", 3) == stories.examples("val", 3)
    example = pickle.loads(pickle.dumps(stories.examples("val", 1)[0]))
    assert example.check(example.response)


def test_examples_never_drift():
    first = task("stories", difficulty="easy").examples("test", 1)[0]
    assert (first.prompt, first.response) == (PROMPT, RESPONSE)
    for difficulty, digest in DIGESTS.items():
        stories = task("stories", difficulty=difficulty, question="either")
        texts = (e.prompt + e.response for split in ("train", "val", "test") for e in stories.examples(split, 20))
        assert hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16] == digest


PROMPT = (
    "Crystal has 19 rakes. Oliver owns 12 rakes. Near the driveway Oliver collects 8 rakes. Oliver "
    "forgets 4 rakes behind the cockpit. Near the studio Oliver buys as many rakes again. At the "
    "penthouse Oliver misplaces 3 rakes. How many rakes are with Oliver now?"
)
RESPONSE = (
    "Oliver starts with 12 rakes. 20 rakes are with Oliver as 8 went on top of 12. 16 rakes stay with "
    "Oliver as 4 of 20 are gone. Oliver now has 16 * 2 = 32 rakes. Removing 3 from 32 gives Oliver 29 "
    "rakes. Therefore the answer is #### 29"
)
DIGESTS = {"easy": "fbb4c5d9f5f391cd", "standard": "588729fb04c23ea3", "hard": "6bf9c5762949ec9e"}
