import hashlib
import re

import pytest

from dmaxlit.errors import UserError
from dmaxlit.tasks import task
from dmaxlit.tasks.stories.task import SCALES
from tests.tasks.stories.test_task import answer_of

READING = task("stories_reading", style="questions")
RECALL = task("stories_reading")


def test_everybody_is_asked_about_and_every_answer_follows_from_the_story():
    for example in READING.examples("train", 300):
        turns = re.findall(r"(How many .*?\?) (.*?#### (\d+))", example.response)
        assert " ".join(f"{question} {answer}" for question, answer, _ in turns) == example.response
        asked = {re.search(r"(?:are with|does) (\w+)", question)[1] for question, _, _ in turns}
        assert len(asked) == len(turns)
        for question, _, number in turns:
            assert answer_of(f"{example.prompt} {question}") == int(number)
        people = {name for name in asked if name in example.prompt}
        assert people == asked


def test_some_stories_have_many_people_and_no_events_and_the_others_few_of_each():
    sizes = []
    for example in READING.examples("train", 300):
        people = example.response.count("####")
        sizes.append((people, len(re.findall(r"\.", example.prompt)) - people))
    assert {people for people, events in sizes if not events} == {5, 6, 7, 8, 9}
    assert {size for size in sizes if size[1]} <= {(people, events) for people in (2, 3) for events in (1, 2, 3)}
    assert max(events for _, events in sizes) < min(scale.events for scale in SCALES.values())  # none is of `stories`
    assert 0.3 < sum(not events for _, events in sizes) / len(sizes) < 0.5


@pytest.mark.parametrize(("reading", "end"), [(READING, r"(?<=#### )(\d+)(?: |$)"), (RECALL, r"(?<=\d)(\.)(?: |$)")])
def test_an_answer_is_right_if_everybody_has_their_number_in_any_order(reading, end):
    for example in reading.examples("test", 20):
        parts = re.split(end, example.response)
        sentences = [f"{text}{mark}" for text, mark in zip(parts[::2], parts[1::2], strict=False)]
        assert len(sentences) == example.answer.count(",") + 1 > 1
        assert example.check(" ".join(sentences))
        assert example.check(" ".join(reversed(sentences)))
        assert not example.check(" ".join(sentences[1:]))
        assert not example.check(" ".join([*sentences, sentences[0]]))
        (one, its), (other, others) = (pair.split() for pair in example.answer.split(", ")[:2])
        swapped = re.sub(rf"\b{other}\b", one, re.sub(rf"\b{one}\b", "_", example.response)).replace("_", other)
        assert example.check(swapped) is (its == others)
        assert not example.check(re.sub(rf"\b{one}\b", "Zoe", example.response))


def test_examples_are_the_same_on_every_machine():
    examples = [*RECALL.examples("val", 50), *READING.examples("val", 50)]
    text = "".join(f"{example.prompt}\n{example.response}\n" for example in examples)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "e11b8b5e1688817a"


def test_an_answer_is_right_if_all_its_numbers_are():
    example = READING.examples("test", 1)[0]
    assert example.check(example.response)
    assert not example.check(re.sub(r"#### (\d+)", r"#### 1\1", example.response, count=1))
    assert not example.check(example.response.rpartition(" How")[0])


def test_recall_says_of_everybody_what_the_story_says():
    for example in RECALL.examples("train", 300):
        said = re.findall(r"(\w+) has (\d+)\.", example.response)
        assert " ".join(f"{who} has {number}." for who, number in said) == example.response
        assert len(dict(said)) == len(said) == example.prompt.count(".")
        assert 6 <= len(said) <= 14
        for who, number in said:
            (sentence,) = (text for text in example.prompt.split(". ") if re.search(rf"\b{who}\b", text))
            assert re.findall(r"\d+", sentence) == [number]
        assert example.check(example.response)
        assert not example.check(example.response.replace(f"{said[0][0]} has", f"{said[0][0]} has 1", 1))


def test_an_unknown_style_is_refused():
    with pytest.raises(UserError, match=r"^style: expected 'recall' or 'questions', got 'short'"):
        task("stories_reading", style="short")


def test_splits_share_nothing_and_longer_lists_begin_with_shorter_ones():
    train, test = READING.examples("train", 50), READING.examples("test", 50)
    assert not {e.prompt for e in train} & {e.prompt for e in test}
    assert READING.examples("train", 20) == train[:20]
    assert task("stories_reading", style="questions", seed=1).examples("train", 5) != train[:5]
    with pytest.raises(UserError, match="split: "):
        READING.examples("dev", 1)


def test_answers_fit_their_budget():
    tokenizer = READING.tokenizer()
    longest = max(len(tokenizer(example.response)["input_ids"]) for example in READING.examples("train", 500))
    assert longest < READING.max_new_tokens
