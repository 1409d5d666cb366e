import pytest

from dmaxlit.errors import UserError
from dmaxlit.tasks import task
from dmaxlit.tasks.columns import check_columns, other_columns, rename_columns


def test_columns_are_checked():
    assert check_columns(None, ("a", "b")) == {}
    assert check_columns({"a": "x"}, ("a", "b")) == {"a": "x"}
    with pytest.raises(UserError, match=r"^columns: expected 'a' or 'b', got 'c'$"):
        check_columns({"c": "x"}, ("a", "b"))
    for wrong in ("", None, 3):
        with pytest.raises(UserError, match=rf"^columns.a: expected the name of a column, got {wrong!r}$"):
            check_columns({"a": wrong}, ("a", "b"))


def test_names_may_be_exchanged_and_absent_ones_stay_absent():
    assert rename_columns({"a": 1, "b": 2, "c": 3}, {"a": "b", "b": "a"}) == {"a": 2, "b": 1, "c": 3}
    assert rename_columns({"a": 1, "c": 3}, {"a": "x"}) == {"c": 3}


def test_a_task_s_file_may_have_other_names(write_rows):
    path = write_rows([{"problem": "2 + 2?", "target": 4, "prompt": "x", "answer": "y"}])
    jsonl = task("jsonl", test=path, columns={"prompt": "problem", "answer": "target"})
    (example,) = jsonl.examples("test", 1)
    assert (example.prompt, example.answer) == ("2 + 2?", "4")
    assert jsonl.options()["columns"] == {"prompt": "problem", "answer": "target"}
    with pytest.raises(UserError, match="expected texts prompt"):
        task("jsonl", test=path, columns={"prompt": "query"}).examples("test", 1)


def test_the_columns_that_are_not_used_keep_their_names():
    row = {"problem": "a", "prompt": "b", "answer": "c", "id": None}
    assert other_columns(row, {"prompt": "problem"}, ["prompt", "answer"]) == {"prompt": "b", "id": None}
    assert other_columns(row, {}, ["question"]) == row


def test_a_task_keeps_the_other_columns_of_its_file(write_rows):
    rows = [
        {"id": 7, "prompt": "2 + 2?", "answer": 4, "response": "4", "question": "x"},
        {"prompt": None, "question": "3 + 3?", "answer": "6", "level": ["hard"]},
    ]
    first, second = task("jsonl", test=write_rows(rows)).examples("test", 2)
    assert (first.extra, second.extra) == ({"id": 7, "question": "x"}, {"prompt": None, "level": ["hard"]})
    assert second.prompt == "3 + 3?"
