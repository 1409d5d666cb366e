import random
from collections import Counter
from itertools import permutations, product

import pytest

from dmaxlit.errors import UserError
from dmaxlit.tasks import DependencyTask, split_of, task
from dmaxlit.tasks.dependency import Line

KINDS = ("copy", "reverse", "replace", "insert", "shuffle", "latin_square")
NAMES = ("Ada", "Ben", "Cleo")


def line(kind, position=2, name="Zoe"):
    return Line(kind, NAMES, position, name)


@pytest.mark.parametrize(
    ("kind", "position", "answer"),
    [
        ("copy", 1, "Ada Ben Cleo"),
        ("reverse", 1, "Cleo Ben Ada"),
        ("replace", 1, "Zoe Ben Cleo"),
        ("replace", 3, "Ada Ben Zoe"),
        ("insert", 1, "Zoe Ada Ben Cleo"),
        ("insert", 4, "Ada Ben Cleo Zoe"),
    ],
)
def test_the_only_right_answer(kind, position, answer):
    asked = line(kind, position)
    right = [
        " ".join(words)
        for length in (2, 3, 4)
        for words in product((*NAMES, "Zoe"), repeat=length)
        if asked.is_answer(words)
    ]
    assert right == [answer]
    assert " ".join(asked.answer(random.Random(0))) == answer


def test_every_other_order_is_a_shuffled_line():
    right = {words for words in product((*NAMES, "Zoe"), repeat=3) if line("shuffle").is_answer(words)}
    assert right == set(permutations(NAMES)) - {NAMES}
    rng = random.Random(0)
    assert {tuple(line("shuffle").answer(rng)) for _ in range(200)} == right


def test_the_twelve_latin_squares_of_three_names():
    rows = list(permutations(NAMES))
    grids = list(product(rows, repeat=3))
    squares = [grid for grid in grids if all(len(set(column)) == 3 for column in zip(*grid, strict=True))]
    assert len(squares) == 12
    asked = line("latin_square")
    right = {grid for grid in grids if asked.is_answer(" / ".join(map(" ".join, grid)).split())}
    assert right == set(squares)
    rng = random.Random(0)
    assert {" ".join(asked.answer(rng)) for _ in range(400)} == {" / ".join(map(" ".join, square)) for square in right}
    for wrong in ("", "Ada Ben Cleo", "Ada Ben Cleo / Ben Cleo Ada", "Ada Ben Cleo Ben Cleo Ada Cleo Ada Ben"):
        assert not asked.is_answer(wrong.split())


def test_deciding_each_word_by_itself_fails_where_words_depend_on_each_other():
    """The best independent guess is right for the first four kinds only: it is what a perfect model does at once."""
    rng = random.Random(0)
    for kind in KINDS:
        asked = line(kind)
        marginals = [Counter(words) for words in zip(*(asked.answer(rng) for _ in range(2000)), strict=True)]
        guesses = [[rng.choices(list(m), list(m.values()))[0] for m in marginals] for _ in range(500)]
        right = sum(map(asked.is_answer, guesses)) / len(guesses)
        assert right == 1 if kind in KINDS[:4] else right < 0.5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wording", ["question", "words"])
def test_the_reference_is_right_and_others_are_not(kind, wording):
    for example in task("dependency", kind=kind, wording=wording, length=4).examples("val", 10):
        words = example.answer.split()
        assert example.check(example.response)
        assert example.check(f"Here it is #### {', '.join(words).replace(', /,', '/')}")
        assert example.extract(f"#### {example.answer}") == example.answer
        assert not example.check(" ".join(words[1:]))
        assert not example.check(f"{example.answer} {words[0]}")
        assert not example.check("")
        assert not example.check(example.answer.lower())


def test_prompts_of_both_wordings():
    asked = task("dependency", kind="insert", wording="words", length=3).examples("test", 1)[0].prompt.split()
    question = task("dependency", kind="insert", length=3).examples("test", 1)[0].prompt
    assert asked[0] == "insert"
    assert question == (
        f"There is a line of names: {' '.join(asked[4:7])}\n"
        f"Insert {asked[2]} so that it stands at position {asked[1]}.\n"
        "Reply with the names only, with spaces between them."
    )


def test_all_takes_the_kinds_in_turn_and_splits_share_no_prompt():
    prompts = {}
    for split in ("train", "val", "test"):
        examples = [e for seed in (0, 1) for e in task("dependency", wording="words", seed=seed).examples(split, 60)]
        prompts[split] = {example.prompt for example in examples}
        assert [example.prompt.split()[0] for example in examples[:12]] == [*KINDS, *KINDS]
        assert all(split_of(prompt) == split for prompt in prompts[split])
    assert len(set().union(*prompts.values())) == sum(map(len, prompts.values())) == 360
    longer = task("dependency").examples("val", 9)
    assert task("dependency").examples("val", 4) == longer[:4]


def test_the_tokenizer_knows_every_word():
    tokenizer = DependencyTask.tokenizer()
    for example in task("dependency", length=12, wording="words").examples("train", 60):
        for text in (example.prompt, example.response):
            ids = tokenizer(text)["input_ids"]
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids) == text
    assert task("dependency", kind="copy", wording="words").max_new_tokens == 32
    assert task("dependency", wording="words").max_new_tokens == 64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "sort"}, "kind: expected 'copy', 'reverse', .*'latin_square' or 'all', got 'sort'"),
        ({"wording": "grid"}, "wording: expected 'question' or 'words', got 'grid'"),
        ({"length": 2}, "length: expected 3 to 12, got 2"),
        ({"length": 13}, "length: expected 3 to 12, got 13"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        task("dependency", **options)


def test_few_prompts_run_out(monkeypatch):
    monkeypatch.setattr("dmaxlit.tasks.dependency._PATIENCE", 30)
    with pytest.raises(UserError, match=r"n: expected at most \d+ test prompts of 3 names, got 3000"):
        task("dependency", kind="copy", length=3).examples("test", 3000)
