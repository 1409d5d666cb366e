import json

import pytest

from dmaxlit.data.corpus_reader import read_corpus
from dmaxlit.data.row_forms import usual_form
from dmaxlit.errors import UserError
from dmaxlit.tasks.records import BadRows

SYSTEM, USER, ANSWER = (
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "2 + 2?"},
    {"role": "assistant", "content": "4"},
)
MORE = [{"role": "user", "content": "sure?"}, {"role": "assistant", "content": "yes"}]


def said(*turns):
    return [{"from": name, "value": value} for name, value in turns]


GOOD = {
    "sharegpt": ({"conversations": said(("human", "2 + 2?"), ("gpt", "4"))}, [USER], "4"),
    "sharegpt, other names": (
        {"conversations": said(("system", "be brief"), ("user", "2 + 2?"), ("model", "4"))},
        [SYSTEM, USER],
        "4",
    ),
    "sharegpt, several turns and a system column": (
        {
            "conversations": said(("human", "2 + 2?"), ("gpt", "4"), ("human", "sure?"), ("gpt", "yes")),
            "system": "be brief",
        },
        [SYSTEM, USER, ANSWER, MORE[0]],
        "yes",
    ),
    "conversations of messages": ({"conversations": [USER, ANSWER], "id": 3}, [USER], "4"),
    "alpaca": ({"instruction": "Add.", "input": "2 and 2", "output": "4"}, "Add.\n2 and 2", "4"),
    "alpaca without input": ({"instruction": "2 + 2?", "output": "4"}, "2 + 2?", "4"),
    "alpaca with an empty input": ({"instruction": "2 + 2?", "input": "", "system": "", "output": "4"}, "2 + 2?", "4"),
    "alpaca with a system": (
        {"instruction": "2 +", "input": "2?", "system": "be brief", "output": "4"},
        [SYSTEM, {"role": "user", "content": "2 +\n2?"}],
        "4",
    ),
    "alpaca with a history": (
        {"instruction": "sure?", "input": None, "history": [["2 + 2?", "4"]], "output": "yes"},
        [USER, ANSWER, MORE[0]],
        "yes",
    ),
    "completion": ({"prompt": "2 + 2?", "completion": "4"}, "2 + 2?", "4"),
    "completion of messages": ({"prompt": [SYSTEM, USER], "completion": [ANSWER]}, [SYSTEM, USER], "4"),
    "messages and a text": ({"prompt": [USER], "response": "4"}, [USER], "4"),
    "a text and messages": ({"prompt": "2 + 2?", "completion": [ANSWER]}, [USER], "4"),
    "ours comes first": (
        {"prompt": "2 + 2?", "response": "4", "instruction": "x", "output": "y", "conversations": []},
        "2 + 2?",
        "4",
    ),
    "messages come first": ({"messages": [USER, ANSWER], "instruction": "x", "output": "y"}, [USER], "4"),
    "a prompt column besides": (
        {"prompt": "topic", "conversations": said(("human", "2 + 2?"), ("gpt", "4"))},
        [USER],
        "4",
    ),
}
TEXTS = "has messages that are not a list of role and content texts"
TOOLS = "has turns of tools, which tool_turns refuses"
BAD = [
    ({"conversations": []}, TEXTS),
    ({"conversations": "hi"}, "has wrong columns"),
    ({"conversations": ["hi"]}, TEXTS),
    ({"conversations": said(("human", "2?"), ("gpt", 4))}, TEXTS),
    ({"conversations": said(("human", "2?"), ("function_call", "{}"), ("gpt", "4"))}, TOOLS),
    ({"conversations": said(("human", "2?"), ("observation", "3"), ("gpt", "4"))}, TOOLS),
    ({"conversations": said(("human", "2?"), ("narrator", "3"), ("gpt", "4"))}, TEXTS),
    ({"conversations": said(("human", "2?"), ([], "{}"), ("gpt", "4"))}, TEXTS),
    ({"conversations": [{"from": "human"}, {"from": "gpt", "value": "4"}]}, TEXTS),
    ({"conversations": said(("gpt", "4"))}, "has messages that do not end in an assistant turn after a prompt"),
    ({"conversations": said(("gpt", "4"), ("human", "ok"))}, "has messages that do not end in an assistant turn"),
    ({"conversations": said(("human", " "), ("gpt", "4"))}, "has an empty prompt or response"),
    ({"instruction": "", "input": "", "output": "4"}, "has an empty instruction"),
    ({"instruction": "2?", "output": " "}, "has an empty output"),
    ({"instruction": "2?", "output": 4}, "has an output that is not text"),
    ({"instruction": 2, "output": "4"}, "has an instruction that is not text"),
    ({"instruction": "2?", "history": "x", "output": "4"}, TEXTS),
    ({"instruction": "2?", "history": [["a"]], "output": "4"}, TEXTS),
    ({"instruction": "2?", "system": 3, "output": "4"}, TEXTS),
    ({"instruction": "2?"}, "has wrong columns"),
    ({"prompt": [USER]}, "has wrong columns"),
    ({"prompt": [USER], "completion": []}, "has messages that do not end in an assistant turn"),
    ({"prompt": [], "completion": [ANSWER]}, "has messages that do not end in an assistant turn"),
    ({"prompt": [USER], "completion": 4}, TEXTS),
    ({"prompt": "2?", "completion": "\ud83d"}, "has a lone surrogate"),
]


@pytest.mark.parametrize("name", GOOD)
def test_rows_of_other_libraries(write_rows, name):
    record, prompt, response = GOOD[name]
    (row,) = read_corpus(write_rows([record]), "train", BadRows("error"))
    assert (row.prompt, row.response) == (prompt, response)


CALL = {"name": "add", "arguments": {"a": 2}}


@pytest.mark.parametrize(
    ("value", "fields"),
    [
        (json.dumps(CALL), {"tool_calls": [{"type": "function", "function": CALL}]}),
        (json.dumps([CALL, CALL]), {"tool_calls": [{"type": "function", "function": CALL}] * 2}),
        ("add(2)", {"function_call": "add(2)"}),
        ("[]", {"function_call": "[]"}),
    ],
)
def test_calls_and_observations_of_sharegpt_are_messages(value, fields):
    said_so = said(("human", "2?"), ("function_call", value), ("observation", "4"))
    assert usual_form({"conversations": said_so})["messages"] == [
        {"role": "user", "content": "2?"},
        {"role": "assistant", **fields},
        {"role": "tool", "content": "4"},
    ]


def test_a_role_that_is_null_beside_from_does_not_matter(write_rows):
    turns = [{**turn, "role": None} for turn in said(("human", "2 + 2?"), ("gpt", "4"))]
    (row,) = read_corpus(write_rows([{"conversations": turns}]), "train", BadRows("error"))
    assert (row.prompt, row.response) == ([USER], "4")


@pytest.mark.parametrize(("record", "reason"), BAD)
def test_bad_rows_of_these_forms_are_bad_rows(write_rows, record, reason):
    path = write_rows([record])
    with pytest.raises(UserError) as caught:
        list(read_corpus(path, "train", BadRows("error")))
    assert str(caught.value).startswith(f"{path}, row 1: {reason}")


def test_the_same_forms_in_parquet(tmp_path):
    from datasets import Dataset

    for name in ("sharegpt, other names", "alpaca with a history", "completion of messages"):
        record, prompt, response = json.loads(json.dumps(GOOD[name]))
        path = tmp_path / "a.parquet"
        Dataset.from_list([record]).to_parquet(path)
        (row,) = read_corpus(str(path), "train", BadRows("error"))
        assert (row.prompt, row.response) == (prompt, response)


@pytest.mark.parametrize(
    ("record", "columns", "prompt"),
    [
        ({"query": "2 + 2?", "reply": "4"}, {"prompt": "query", "response": "reply"}, "2 + 2?"),
        ({"prompt": "2 + 2?", "reply": "4", "response": "5"}, {"response": "reply"}, "2 + 2?"),
        ({"query": "2 + 2?", "response": "4", "prompt": "x"}, {"prompt": "query"}, "2 + 2?"),
        ({"query": "2 + 2?", "reply": "4", "messages": MORE}, {"prompt": "query", "response": "reply"}, "2 + 2?"),
        ({"chat": [USER, ANSWER], "prompt": "x", "response": "y"}, {"messages": "chat"}, [USER]),
        ({"chat": said(("human", "2 + 2?"), ("gpt", "4"))}, {"conversations": "chat"}, [USER]),
        ({"task": "2 +", "data": "2?", "output": "4"}, {"instruction": "task", "input": "data"}, "2 +\n2?"),
        ({"task": "2 + 2?", "output": "4"}, {"instruction": "task", "input": "data"}, "2 + 2?"),
    ],
)
def test_columns_may_have_other_names(write_rows, record, columns, prompt):
    (row,) = read_corpus(write_rows([record]), "train", BadRows("error"), columns)
    assert (row.prompt, row.response) == (prompt, "4")


def test_a_row_without_a_column_that_was_named_is_a_bad_row(write_rows):
    path = write_rows([{"prompt": "2?", "response": "4"}])
    with pytest.raises(UserError, match=r"row 1: has wrong columns \(expected 'query', got prompt, response\)$"):
        list(read_corpus(path, "train", BadRows("error"), {"prompt": "query"}))
