import json

import pytest

from dmaxlit.errors import UserError
from dmaxlit.tasks import split_of, task

ROWS = [{"prompt": f"what is {i}?", "answer": str(i)} for i in range(200)]


def test_one_file_is_divided_by_the_hash_of_the_prompt_in_file_order(write_rows):
    jsonl = task("jsonl", path=write_rows(ROWS))
    for split in ("train", "val", "test"):
        prompts = [row["prompt"] for row in ROWS if split_of(row["prompt"]) == split]
        assert len(prompts) > 5
        assert [e.prompt for e in jsonl.examples(split, len(prompts))] == prompts
        assert [e.prompt for e in jsonl.examples(split, 3)] == prompts[:3]


def test_adding_rows_moves_none_between_splits(write_rows):
    before = task("jsonl", path=write_rows(ROWS[:100], "a.jsonl")).examples("test", 4)
    after = task("jsonl", path=write_rows(ROWS, "b.jsonl")).examples("test", 4)
    assert before == after


def test_asking_for_more_than_there_is_is_refused(write_rows):
    with pytest.raises(UserError, match=r"n: expected at most the \d+ val prompts of .*corpus.jsonl', got 500"):
        task("jsonl", path=write_rows(ROWS)).examples("val", 500)


def test_files_of_their_own_share_no_prompt(write_rows):
    jsonl = task(
        "jsonl",
        train=write_rows([{"question": q, "answer": "1"} for q in "abcde"], "train.jsonl"),
        val=write_rows([{"question": q, "answer": "1"} for q in "bcf"], "val.jsonl"),
        test=write_rows([{"question": q, "answer": "1"} for q in "cgg"], "test.jsonl"),
    )
    assert [[e.prompt for e in jsonl.examples(s, n)] for s, n in (("train", 3), ("val", 2), ("test", 2))] == [
        ["a", "d", "e"],
        ["b", "f"],
        ["c", "g"],
    ]


def test_a_split_without_a_file_is_empty(write_rows):
    jsonl = task("jsonl", test=write_rows(ROWS))
    assert len(jsonl.examples("test", 200)) == 200
    with pytest.raises(UserError, match="at most the 0 train prompts"):
        jsonl.examples("train", 1)


def test_numeric_and_exact_match(write_rows):
    path = write_rows([{"prompt": "p", "answer": "so 10 - 3 #### 7", "response": "7 of them"}])
    (numeric,) = task("jsonl", train=path, match="numeric").examples("train", 1)
    (exact,) = task("jsonl", train=path).examples("train", 1)
    assert numeric.check("7.0 it is")
    assert not numeric.check("8")
    assert not exact.check("7.0 it is")
    assert exact.check("so 10 - 3  #### 7")
    assert numeric.response == "7 of them"


@pytest.mark.parametrize("answer", [7, 2.5, 10**400])
def test_numbers_as_answers_are_text(write_rows, answer):
    (example,) = task("jsonl", train=write_rows([{"prompt": "p", "answer": answer}])).examples("train", 1)
    assert example.answer == str(answer)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{oops", r"corpus.jsonl, row 2: is not valid JSON"),
        ({"prompt": "p"}, r"corpus.jsonl, row 2: expected texts prompt \(or question\) and answer, got prompt"),
        ({"prompt": "p", "answer": None}, r"row 2: expected texts"),
        ({"prompt": 3, "answer": "3"}, r"row 2: expected texts"),
        ("[1]", r"row 2: expected texts .* got none"),
        ({"prompt": " ", "answer": "3"}, r"row 2: has an empty prompt or answer"),
        ({"prompt": "p", "answer": float("nan")}, r"row 2: expected texts"),
        ({"prompt": "p \ud83d", "answer": "3"}, r"row 2: has a lone surrogate \(\\ud83d\)"),
        ({"prompt": "p", "answer": "3", "response": "\ud83d 3"}, r"row 2: has a lone surrogate"),
        (
            {"prompt": "p", "answer": "three"},
            r"row 2: expected an answer with a number for match 'numeric', got 'three'",
        ),
        (
            {"prompt": "p", "answer": "about 3/4"},
            r"row 2: expected an answer that is one number for match 'numeric', .*; got 'about 3/4'",
        ),
    ],
)
def test_bad_rows_are_refused_with_file_and_row(write_rows, row, message):
    jsonl = task("jsonl", path=write_rows([ROWS[0], row]), match="numeric")
    with pytest.raises(UserError, match=message):
        jsonl.examples("train", 1)


def test_missing_file_is_refused_when_it_is_needed(tmp_path):
    jsonl = task("jsonl", path=str(tmp_path / "none.jsonl"))
    with pytest.raises(UserError, match="no such file"):
        jsonl.examples("val", 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "expected either path or files"),
        ({"path": "a", "val": "b"}, "expected either path or files"),
        ({"path": "a", "match": "fuzzy"}, "match: expected"),
        ({"path": "a", "max_new_tokens": 0}, "max_new_tokens: expected at least 1, got 0"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        task("jsonl", **options)


def test_parquet_reads_like_jsonl(tmp_path, write_rows):
    from datasets import Dataset

    path = tmp_path / "rows.parquet"
    Dataset.from_list(ROWS).to_parquet(path)
    assert task("jsonl", path=str(path)).examples("test", 9) == task("jsonl", path=write_rows(ROWS)).examples("test", 9)
    assert json.loads(json.dumps(task("jsonl", path=str(path)).options()))["path"] == str(path)


def test_the_number_of_examples_of_a_split_is_known(write_rows):
    rows = [{"prompt": f"q{i}", "answer": str(i)} for i in range(40)]
    one = task("jsonl", path=write_rows(rows))
    assert sum(one.count(split) for split in ("train", "val", "test")) == 40
    assert len(one.examples("val", one.count("val"))) == one.count("val")
    assert task("jsonl", test=write_rows(rows[:3], "t.jsonl")).count("train") == 0
