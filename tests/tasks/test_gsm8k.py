import operator
import re

import pytest

from dmaxlit.errors import UserError
from dmaxlit.tasks import split_of, task
from dmaxlit.tasks.prompts import conversation_of, is_plain

OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
ROWS = [
    {"question": f"What is {i} + {i}?", "answer": f"It is {i}+{i}=<<{i}+{i}={2 * i}>>{2 * i}.\n#### {2 * i:,}"}
    for i in range(300)
]


def test_rows_become_prompts_with_strict_graders(write_rows):
    first, second = task("gsm8k", path=write_rows(ROWS)).examples("test", 300)[-2:]
    assert first.prompt == "Question: What is 298 + 298?\nLet's think step by step\nAnswer:"
    assert conversation_of(first.prompt) == [{"role": "user", "content": str(first.prompt)}]
    assert first.answer == "596"
    assert first.response == "It is 298+298=596.\n#### 596"
    assert first.check(first.response)
    assert first.check(r"So it is $\boxed{596.0}$.")
    assert not first.check("596")
    assert not first.check("#### 596\nThe answer is 597")
    assert not first.check(second.response)
    assert first.extract("#### 596 of them") == "596 of them"
    assert first.extract("596") is None


def test_lenient_accepts_either_of_two_candidates(write_rows):
    path = write_rows(ROWS)
    strict, lenient = (task("gsm8k", path=path, lenient=lenient).examples("test", 10)[9] for lenient in (False, True))
    for text, by_strict, by_lenient in (("#### 18", True, True), ("18\n20", False, True), ("18\n1\n2", False, False)):
        assert strict.check(text) == by_strict
        assert lenient.check(text) == by_lenient
    assert lenient.extract("18\n20") == "20 or 18"


def test_few_shot_is_a_text_to_continue_that_ends_with_the_next_question(write_rows):
    path = write_rows(ROWS)
    prompts = {n: task("gsm8k", path=path, template="few_shot", shots=n).examples("test", 1)[0] for n in (0, 2, None)}
    assert [example.prompt.count("Question:") for example in prompts.values()] == [1, 3, 9]
    assert is_plain(prompts[2].prompt)
    assert prompts[2].check("#### 0\n\nQuestion: more?\nAnswer: #### 1")
    assert prompts[2].extract("#### 0\n\nQuestion: more?\nAnswer: #### 1") == "0"


def test_the_worked_examples_of_few_shot_are_right(write_rows):
    template = task("gsm8k", path=write_rows(ROWS), template="few_shot").prompts
    rows = [{"question": shot["question"], "answer": shot["response"]} for shot in template.shots]
    examples = task("gsm8k", path=write_rows(rows, "shots.jsonl")).examples("test", 8)
    assert all(example.check(shot["response"]) for example, shot in zip(examples, template.shots, strict=True))
    for shot in template.shots:
        sums = re.findall(r"(?<![-+*/] )\b(\d+) ([-+*/]) (\d+) = ([\d.]+)", shot["response"])
        assert len(sums) > 0
        for left, sign, right, result in sums:
            assert OPERATORS[sign](int(left), int(right)) == float(result)


def test_train_and_val_are_divided_by_the_question_and_share_none_with_test(write_rows):
    test, train = write_rows(ROWS[:20], "test.jsonl"), write_rows(ROWS + ROWS[50:60], "train.jsonl")
    for template in ("dmax", "few_shot"):
        gsm8k = task("gsm8k", path=test, train=train, template=template)
        numbers = {}
        for split in ("train", "val"):
            questions = [
                row["question"] for row in ROWS[20:] if (split_of(row["question"]) == "val") == (split == "val")
            ]
            numbers[split] = len(questions)
            examples = gsm8k.examples(split, len(questions))
            assert all(question in example.prompt for question, example in zip(questions, examples, strict=True))
        assert numbers["val"] > 10
        assert sum(numbers.values()) == 280


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": "other"}, r"template: expected one of gsm8k \(dmax, few_shot, zero_shot\), or a .yaml file"),
        ({"shots": 1}, "shots: expected 0 to 0, the worked examples of 'dmax', got 1"),
        ({"template": "few_shot", "shots": -1}, "shots: expected 0 to 8, the worked examples of 'few_shot', got -1"),
        ({"max_new_tokens": 0}, "max_new_tokens: expected at least 1"),
        ({"n_shots": 1}, "task 'gsm8k': unknown option n_shots"),
    ],
)
def test_bad_options_are_refused_at_once(options, message):
    with pytest.raises(UserError, match=message):
        task("gsm8k", **options)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"problem": "x", "answer": "#### 1"}, r"rows.jsonl, row 2: expected a column question, got problem, answer"),
        ({"question": "x"}, r"rows.jsonl, row 2: expected a column answer, got question"),
        ({"question": 5, "answer": "#### 1"}, r"rows.jsonl, row 2: expected a text in column question, got 5"),
        ({"question": "x", "answer": "it is 5"}, "row 2: expected '#### NUMBER' at the end of column answer, got 'it"),
        ({"question": "x", "answer": "#### five"}, "row 2: expected '#### NUMBER' at the end of column answer"),
        (["x"], r"rows.jsonl, row 2: expected columns question, answer, got a value of type list"),
    ],
)
def test_a_file_of_another_schema_is_refused_by_file_row_and_column(write_rows, row, message):
    with pytest.raises(UserError, match=message):
        task("gsm8k", path=write_rows([ROWS[0], row], "rows.jsonl")).examples("test", 1)


def test_more_than_there_is_and_a_split_that_is_not_there_are_refused(write_rows):
    gsm8k = task("gsm8k", path=write_rows(ROWS[:3]))
    with pytest.raises(UserError, match=r"n: expected at most the 3 test prompts of gsm8k, got 4"):
        gsm8k.examples("test", 4)
    with pytest.raises(UserError, match=r"n: expected at most the 0 train prompts of gsm8k, got 1"):
        gsm8k.examples("train", 1)
    with pytest.raises(UserError, match=r"split: expected one of"):
        gsm8k.examples("validation", 1)


def test_a_hub_that_cannot_be_reached_says_how_to_give_a_file(monkeypatch):
    import datasets

    def refuse(*args, **kwargs):
        raise ConnectionError("Couldn't reach 'openai/gsm8k' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(
        UserError, match=r"^gsm8k: cannot read 'openai/gsm8k:main' from the hub; a local file with "
    ) as error:
        task("gsm8k").examples("test", 1)
    assert "--task.path FILE, by fit as --data.task.path, by evaluate as --task.gsm8k.path (" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_hub_is_asked_for_the_configuration_and_split(monkeypatch):
    import datasets

    asked = []

    def load(name, config, split):
        asked.append((name, config, split))
        return ROWS[:40] if split == "train" else ROWS[:5]

    monkeypatch.setattr(datasets, "load_dataset", load)
    gsm8k = task("gsm8k")
    assert len(gsm8k.examples("test", 5)) == 5
    assert gsm8k.examples("train", 1)[0].prompt.startswith("Question: What is 6 + 6?")  # 5 + 5 is for validation
    assert set(asked) == {("openai/gsm8k", "main", "test"), ("openai/gsm8k", "main", "train")}


def test_options_rebuild_the_task(write_rows):
    gsm8k = task("gsm8k", path=write_rows(ROWS), template="zero_shot", max_new_tokens=100)
    again = task("gsm8k", **gsm8k.options())
    assert again.examples("test", 9) == gsm8k.examples("test", 9)
    assert again.max_new_tokens == 100


def test_examples_can_be_pickled(write_rows):
    import pickle

    (example,) = task("gsm8k", path=write_rows(ROWS)).examples("test", 1)
    copy = pickle.loads(pickle.dumps(example))
    assert copy == example
    assert copy.check("#### 0")
    assert conversation_of(copy.prompt) == conversation_of(example.prompt)
