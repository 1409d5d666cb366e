import dataclasses
import itertools
import pickle
from collections import Counter

import pytest

from dmaxlit.data.encoding import encode_prompt
from dmaxlit.errors import UserError
from dmaxlit.tasks import ChainTask, split_of, task

SYNONYMS = {
    "S": {"so", "then", "now"},
    "I": {"is", "gives", "makes"},
    "E": {".", ";", ","},
    "T": {"take", "use", "put"},
    "W": {"with", "from", "by"},
}
LAYOUTS = ["SaoIcE", "ScIaoE", "TaWoEc", "ToWaIc"]


def apply(value, operation):
    number = int(operation[1:])
    return {"+": value + number, "-": value - number, "*": value * number}[operation[0]] % 10


def parse(words):
    """Return the layouts that six words fit, with operand, operation and result, without the task's checker."""
    fits = []
    for layout in LAYOUTS:
        named = dict(zip(layout, words, strict=True))
        if all(named[slot] in known for slot, known in SYNONYMS.items() if slot in named):
            fits.append((layout, named["a"], named["o"], named["c"]))
    return fits


def follow(prompt, response):
    """Check a worked answer from scratch; returns the layouts used."""
    start, *operations, mark = prompt.split()
    assert mark == "?"
    value, layouts, words = int(start), [], response.split()
    for number, operation in enumerate(operations):
        ((layout, a, o, c),) = parse(words[6 * number : 6 * number + 6])
        assert (a, o) == (str(value), operation)
        value = apply(value, operation)
        assert c == str(value)
        layouts.append(layout)
    conclusion = words[6 * len(operations) :]
    assert conclusion[0] in {"so", "then"}
    assert conclusion[1] in {"answer", "result", "final"}
    assert conclusion[2] in {"is", "gives"}
    assert conclusion[3:] == ["####", str(value)]
    return layouts, str(value)


@pytest.mark.parametrize("difficulty", ["easy", "standard", "hard"])
def test_worked_answers_are_right_by_an_independent_check(difficulty):
    layouts = Counter()
    for example in task("chain", difficulty=difficulty).examples("train", 300):
        used, value = follow(example.prompt, example.response)
        assert value == example.answer
        assert example.check(example.response)
        layouts.update(used)
    assert set(layouts) == set(LAYOUTS)
    assert min(layouts.values()) > 0.2 * layouts.total()


def test_synonyms_are_weighted_5_3_2():
    words = Counter(
        word
        for example in task("chain").examples("train", 2000)
        for word in example.response.split()
        if word in SYNONYMS["T"]
    )
    shares = [words[word] / words.total() for word in ("take", "use", "put")]
    assert shares == pytest.approx([0.5, 0.3, 0.2], abs=0.02)


def test_examples_never_drift():
    examples = {
        (difficulty, split): next(
            (e.prompt, e.response) for e in task("chain", difficulty=difficulty).examples(split, 1)
        )
        for difficulty, split in PINNED
    }
    assert examples == PINNED


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_longer_list_begins_with_the_shorter(split):
    chain = task("chain")
    assert chain.examples(split, 40)[:15] == chain.examples(split, 15)


def test_splits_share_no_prompt_whatever_seed_and_repeat_none():
    prompts = {}
    for split, seed in itertools.product(("train", "val", "test"), (0, 1)):
        drawn = [e.prompt for e in task("chain", difficulty="easy", seed=seed).examples(split, 800)]
        assert len(set(drawn)) == len(drawn)
        assert {split_of(prompt) for prompt in drawn} == {split}
        prompts.setdefault(split, set()).update(drawn)
    assert not prompts["train"] & prompts["val"]
    assert not prompts["train"] & prompts["test"]
    assert not prompts["val"] & prompts["test"]


def test_seeds_differ():
    assert task("chain", seed=1).examples("test", 5) != task("chain").examples("test", 5)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_smallest_space_gives_what_it_promises_and_no_more(split):
    chain = task("chain", operations=3)
    capacity = {"train": 384, "val": 48, "test": 48}[split]
    assert len({e.prompt for e in chain.examples(split, capacity)}) == capacity
    with pytest.raises(UserError, match=f"at most {capacity} {split} prompts of 3 operations, got {capacity + 1}"):
        chain.examples(split, capacity + 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"difficulty": "brutal"}, "difficulty: expected 'easy', 'standard' or 'hard', got 'brutal'"),
        ({"operations": 2}, "operations: expected 3 to 64, got 2"),
        ({"operations": 65}, "operations: expected 3 to 64, got 65"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        task("chain", **options)


def test_an_unknown_split_is_refused():
    with pytest.raises(UserError, match="split: expected one of train, val, test, got 'dev'"):
        task("chain").examples("dev", 1)


@pytest.mark.parametrize(("steps", "tokens"), [(6, 42), (10, 66), (14, 90)])
def test_the_budget_holds_an_answer_with_eos(steps, tokens):
    chain = task("chain", operations=steps)
    longest = max(len(e.response.split()) for e in chain.examples("val", 20)) + 1
    assert longest == tokens < chain.max_new_tokens
    assert chain.max_new_tokens % 32 == 0


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("so answer is #### 4", True),
        ("#### 4", True),
        ("#### 5 #### 4", True),
        ("#### 4 #### 5", False),
        ("#### 44", False),
        ("4", False),
        ("####", False),
        ("", False),
    ],
)
def test_only_the_last_marked_answer_counts(text, right):
    example = next(e for e in task("chain").examples("test", 100) if e.answer == "4")
    assert example.check(text) is right


def test_checkers_travel_between_processes():
    example = pickle.loads(pickle.dumps(task("chain").examples("val", 1)[0]))
    assert example.check(example.response)


def test_every_single_wrong_token_is_found_in_its_step():
    chain, (example,) = task("chain", difficulty="easy"), task("chain", difficulty="easy").examples("test", 1)
    words = example.response.split()
    assert chain.check_steps(example.prompt, example.response) == chain.check_steps(
        example.prompt, " ".join(words) + "  "
    )
    assert chain.check_steps(example.prompt, example.response).exact
    for position in range(len(words)):
        wrong = [*words[:position], "?", *words[position + 1 :]]
        report = chain.check_steps(example.prompt, " ".join(wrong))
        in_steps = position < 6 * chain.steps
        assert not report.exact
        assert (report.right, report.total) == (chain.steps - in_steps, chain.steps)
        assert report.final is (position < len(words) - 2)


def test_a_wrong_digit_or_operation_is_wrong_even_in_a_right_layout():
    chain = task("chain")
    prompt = "3 +1 *3 -2 ?"
    good = "so 3 +1 is 4 . take *3 by 4 gives 2 then 0 makes 2 -2 , so result is #### 0"
    report = chain.check_steps(prompt, good)
    assert (report.right, report.total, report.final, report.exact) == (3, 3, True, True)
    for old, new, right in [("is 4 .", "is 5 .", 2), ("*3 by", "+3 by", 2), ("2 -2 ,", "1 -2 ,", 2)]:
        report = chain.check_steps(prompt, good.replace(old, new))
        assert (report.right, report.final, report.exact) == (right, True, False)


@pytest.mark.parametrize("text", ["", "so", "#### #### ####", "so 3 +1 is 4 ."])
def test_short_answers_are_judged_not_refused(text):
    report = task("chain").check_steps("3 +1 *3 -2 ?", text)
    assert (report.right, report.final, report.exact) == (int(text.startswith("so 3")), False, False)


def test_an_answer_with_more_after_it_is_not_exact():
    chain, (example,) = task("chain"), task("chain").examples("test", 1)
    report = chain.check_steps(example.prompt, example.response + " so")
    assert (report.right, report.final, report.exact) == (10, True, False)


@pytest.mark.parametrize("prompt", ["", "3", "3 ?", "3 +1", "3 +2 ?", "11 +1 ?", "hello ?"])
def test_foreign_prompts_are_refused(prompt):
    with pytest.raises(UserError, match="prompt: expected 'digit operations"):
        task("chain").check_steps(prompt, "so")


def test_tokenizer_gives_one_token_a_word_and_back(tmp_path):
    tokenizer = ChainTask.tokenizer()
    for example in task("chain").examples("val", 50):
        ids = tokenizer(example.response)["input_ids"]
        assert len(ids) == len(example.response.split())
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == example.response
        assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == example.response
    assert len(tokenizer) == 38
    assert tokenizer.pad_token_id != tokenizer.eos_token_id != tokenizer.mask_token_id
    tokenizer.save_pretrained(tmp_path)
    again = type(tokenizer).from_pretrained(tmp_path)
    assert again.get_vocab() == tokenizer.get_vocab()
    assert encode_prompt(again, "3 <mask> ?") == encode_prompt(tokenizer, "3 <mask> ?")


@pytest.mark.parametrize("special", ["<pad>", "<eos>", "<mask>"])
def test_special_token_text_is_data(special):
    tokenizer = ChainTask.tokenizer()
    three, foreign, mark = encode_prompt(tokenizer, f"3 {special} ?")
    assert foreign == tokenizer.unk_token_id
    assert foreign not in {tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id}
    assert [three, mark] == encode_prompt(tokenizer, "3 ?")


PINNED = {
    ("standard", "train"): (
        "7 +1 *3 +1 *3 *3 +3 +1 +3 +3 *3 ?",
        "now 8 is 7 +1 , use 8 from *3 . 4 so 5 gives 4 +1 ; then 5 *3 gives 5 ; "
        "put 5 with *3 . 5 then 8 is 5 +3 , use +1 from 8 makes 9 then 2 gives 9 +3 . "
        "take +3 from 2 gives 5 then 5 *3 is 5 . so answer is #### 5",
    ),
    ("standard", "test"): (
        "1 +1 +1 *3 -2 -2 *3 -2 +1 *3 -2 ?",
        "so 1 +1 makes 2 . then 2 +1 is 3 , now 3 *3 makes 9 , so 7 gives 9 -2 ; "
        "so 7 -2 gives 5 . so 5 *3 makes 5 . take -2 from 5 is 3 now 3 +1 is 4 ; "
        "now 4 *3 gives 2 . take -2 by 2 is 0 then answer is #### 0",
    ),
    ("easy", "val"): (
        "2 +3 +3 *3 +1 -2 +3 ?",
        "take +3 from 2 is 5 then 8 is 5 +3 ; use 8 with *3 ; 4 put +1 with 4 is 5 "
        "so 5 -2 gives 3 . so 6 makes 3 +3 ; then answer is #### 6",
    ),
    ("hard", "test"): (
        "2 +1 +1 -2 +3 *3 +1 *3 +1 *3 -2 -2 +3 -2 *3 ?",
        "use 2 from +1 . 3 so 4 gives 3 +1 , take -2 from 4 is 2 so 5 is 2 +3 , "
        "so 5 *3 makes 5 ; take +1 from 5 is 6 so 6 *3 is 8 ; use 8 with +1 . 9 "
        "take *3 with 9 is 7 now 7 -2 gives 5 , so 3 gives 5 -2 . take +3 from 3 gives 6 "
        "take 6 with -2 , 4 so 2 is 4 *3 ; then answer is #### 2",
    ),
}


def test_a_task_is_shown_with_its_options():
    assert repr(task("chain", operations=3)) == "ChainTask(difficulty='standard', operations=3, seed=0)"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("so is #### 3 .", "3"), ("#### 3 #### 4", "4"), ("#### 4 ####", None), ("4", None), ("", None)],
)
def test_the_extracted_answer_is_the_word_after_the_last_mark(text, expected):
    example = dataclasses.replace(ChainTask().examples("test", 1)[0], answer="4")
    assert example.extract(text) == expected
