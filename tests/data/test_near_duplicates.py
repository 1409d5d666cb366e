"""Near duplicates, against similarities counted by hand."""

import random
import sys

import pytest

from dmaxlit.data.distill_settings import DistillSettings
from dmaxlit.data.near_duplicates import NearDuplicates
from dmaxlit.errors import UserError

WORDS = [f"w{number}" for number in range(1000)]


def similarity(first, second):
    """Independent: the share of common runs of five words, of lists of words."""
    runs = [{tuple(words[i : i + 5]) for i in range(len(words) - 4)} for words in (first, second)]
    return len(runs[0] & runs[1]) / len(runs[0] | runs[1])


def changed(words, places):
    return [f"other{i}" if i in places else word for i, word in enumerate(words)]


def test_texts_far_from_the_threshold_are_told_apart():
    text = random.Random(0).sample(WORDS, 200)
    alike, unlike = changed(text, {100}), changed(text, range(0, 200, 20))
    assert similarity(text, alike) > 0.94
    assert similarity(text, unlike) < 0.65
    near = NearDuplicates(0.8)
    assert [near.repeats(" ".join(words)) for words in (text, alike, unlike, text)] == [False, True, False, True]


def test_many_earlier_texts_below_the_threshold_add_up_to_no_repetition():
    rng = random.Random(0)
    text = rng.sample(WORDS, 200)
    earlier = [[word if rng.random() > 0.056 else f"of{number}" for word in text] for number in range(300)]
    assert 0.5 < sum(similarity(text, words) for words in earlier) / len(earlier) < 0.65
    earlier = [words for words in earlier if similarity(text, words) < 0.65]
    near = NearDuplicates(0.8)
    assert [near.repeats(" ".join(words)) for words in [*earlier, text]] == [False] * (len(earlier) + 1)


def test_hardly_a_text_above_the_threshold_is_missed():
    texts = [random.Random(seed).sample(WORDS, 200) for seed in range(300)]
    alike = [changed(text, {50, 150}) for text in texts]
    assert {round(similarity(*pair), 2) for pair in zip(texts, alike, strict=True)} == {0.9}
    near = NearDuplicates(0.8)
    assert not any(near.repeats(" ".join(words)) for words in texts)
    assert sum(near.repeats(" ".join(words)) for words in alike) >= 298


def test_a_text_that_repeats_one_is_not_compared_with_later_ones():
    text = random.Random(0).sample(WORDS, 200)
    steps = [changed(text, range(0, 10 * step, 10)) for step in range(9)]
    assert similarity(steps[0], steps[8]) < 0.7
    near = NearDuplicates(0.85)
    assert [near.repeats(" ".join(words)) for words in steps][:2] == [False, True]


def test_short_and_empty_texts():
    near = NearDuplicates(0.8)
    assert [near.repeats(text) for text in ("a b", "a c", "a b", "", "")] == [False, False, True, False, True]


def test_the_same_in_every_run():
    texts = [" ".join(random.Random(i % 7).choices(WORDS[:12], k=30)) for i in range(60)]
    first, second = ([near.repeats(text) for text in texts] for near in (NearDuplicates(0.8), NearDuplicates(0.8)))
    assert first == second
    assert first[:7] == [False] * 7
    assert all(first[7:])


def test_the_package_may_be_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(UserError, match="duplicates: expected datasketch for drop_near"):
        NearDuplicates(0.8)
    with pytest.raises(UserError, match="duplicates: expected datasketch for drop_near"):
        DistillSettings(duplicates="drop_near").check()  # before a model is loaded
