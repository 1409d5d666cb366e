import gzip
import json

import pyarrow as pa
import pytest

from dmaxlit.data.chat_turns import ChatTurns
from dmaxlit.data.corpus_reader import read_corpus
from dmaxlit.errors import UserError
from dmaxlit.tasks.records import BadRows

GOOD = {"prompt": "p", "response": "r"}
TURNS = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"id": "1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Bern"}}}],
}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"city": {"type": "string"}}}}
RESULT = {"role": "tool", "tool_call_id": "1", "name": "weather", "content": "dry"}
IMAGE = {"type": "image", "url": "x"}
NO_TEXTS = "has messages that are not a list of role and content texts"
BAD = [
    ("{oops", "is not valid JSON"),
    ('{"prompt": "p", "resp', "is not valid JSON"),
    ("[1, 2]", "has wrong columns"),
    ("7", "has wrong columns"),
    ({}, "has wrong columns"),
    ({"prompt": "p"}, "has wrong columns"),
    ({"question": "p", "response": "r"}, "has wrong columns"),
    ({"prompt": "p", "response": None}, "has wrong columns"),
    ({"prompt": "", "response": "r"}, "has an empty prompt"),
    ({"prompt": " \n", "response": "r"}, "has an empty prompt"),
    ({"prompt": "p", "response": " "}, "has an empty response"),
    ({"question": "p", "answer": ""}, "has an empty answer"),
    ({"prompt": 3, "response": "r"}, "has a prompt that is not text"),
    ({"prompt": "p", "response": ["r"]}, "has a response that is not text"),
    ({"prompt": "half \ud83d", "response": "r"}, r"has a lone surrogate"),
    ('{"question": "p", "answer": "\\ude00"}', "has a lone surrogate"),
    ({"messages": [{"role": "user\udfff", "content": "u"}, TURNS[1]]}, "has a lone surrogate"),
    ({"messages": [TURNS[0], {"role": "assistant", "content": "a\ud800"}]}, "has a lone surrogate"),
    ({"text": " "}, "has an empty text"),
    ({"text": 3}, "has a text that is not text"),
    ({"text": "half \ud83d"}, "has a lone surrogate"),
    ({"messages": []}, NO_TEXTS),
    ({"messages": "hi"}, NO_TEXTS),
    ({"messages": [*TURNS, "hi"]}, NO_TEXTS),
    ({"messages": [{"role": "user"}]}, NO_TEXTS),
    ({"messages": TURNS[:1]}, "has messages that do not end in an assistant turn after a prompt"),
    ({"messages": TURNS[1:]}, "has messages that do not end in an assistant turn after a prompt"),
    ({"messages": [TURNS[0], {"role": "assistant", "content": " "}]}, "has an empty prompt or response"),
    ({"messages": [{"role": "user", "content": ""}, TURNS[1]]}, "has an empty prompt or response"),
    (
        {"messages": [{"role": "user", "content": None}, TURNS[1]]},
        "has messages that are not a list of role and content texts",
    ),
    (
        {"messages": [{"role": "user", "tool_calls": []}, TURNS[1]]},
        "has messages that are not a list of role and content texts",
    ),
    ({"messages": [{"role": "user", "content": ["x", IMAGE]}, TURNS[1]]}, "has a message with a part that is not text"),
    ({"messages": [TURNS[0], CALL]}, "has turns of tools, which tool_turns refuses"),
    ({"messages": [TURNS[0], CALL, RESULT, TURNS[1]]}, "has turns of tools, which tool_turns refuses"),
    ({"messages": [TURNS[0], RESULT, TURNS[1]]}, "has turns of tools, which tool_turns refuses"),
    ({"messages": [TURNS[0], {**TURNS[1], "thinking": "x"}]}, "has messages that end in more than a text"),
    ({"messages": TURNS, "tools": "weather"}, "has tools that are not a list of objects"),
    ({"messages": TURNS, "tools": {"name": "f"}}, "has tools that are not a list of objects"),
    ({"messages": TURNS, "tools": ["f"]}, "has tools that are not a list of objects"),
]


def compressed(content, name):
    """Return what a file of that name holds."""
    if name.lower().endswith(".gz"):
        return gzip.compress(content, mtime=0)
    return pa.compress(content, "zstd", asbytes=True) if name.lower().endswith(".zst") else content


def read(path, policy="error", split="train"):
    return [(row.prompt, row.response) for row in read_corpus(str(path), split, BadRows(policy))]


def test_the_three_forms_of_rows(write_rows):
    chat = [{"role": "system", "content": "s"}, *TURNS, {"role": "user", "content": "u2"}, TURNS[1]]
    path = write_rows([GOOD, {"question": "q", "answer": "a"}, {"messages": TURNS}, {"messages": chat}])
    assert read(path) == [("p", "r"), ("q", "a"), (TURNS[:1], "a"), (chat[:-1], "a")]


def test_further_columns_and_blank_lines_do_not_matter(write_rows):
    assert read(write_rows([{**GOOD, "id": 3}, "", {"score": 0.5, **GOOD}, "   "])) == [("p", "r")] * 2


def test_text_comes_as_it_is(write_rows):
    odd = {"prompt": ' línea\u2028uno\n"dos" ', "response": "日本 <mask> \N{GRINNING FACE}\t"}
    path = write_rows([odd, json.dumps(odd, ensure_ascii=False)])
    assert read(path) == [(odd["prompt"], odd["response"])] * 2


@pytest.mark.parametrize(
    ("row", "columns", "expected"),
    [
        ({"text": " one\ntwo "}, {}, (None, " one\ntwo ")),
        ({"text": "one", "url": "x", "id": 3, "prompt": None}, {}, (None, "one")),
        ({"text": "one", **GOOD}, {}, ("p", "r")),
        ({"text": "one", "messages": TURNS}, {}, (TURNS[:1], "a")),
        ({"text": "one", "instruction": "i", "input": "", "output": "o"}, {}, ("i", "o")),
        ({"text": "one", **GOOD}, {"text": "text"}, (None, "one")),
        ({"body": "two", "text": "one", "answer": "a"}, {"text": "body"}, (None, "two")),
    ],
)
def test_rows_of_plain_text(write_rows, row, columns, expected):
    (read_row,) = read_corpus(write_rows([row]), "train", BadRows("error"), columns)
    assert (read_row.prompt, read_row.response) == expected


def test_a_text_that_is_perhaps_a_part_only_is_refused(write_rows):
    message = r"row 1: has wrong columns \(expected the columns .*, or text alone, got prompt, text\)"
    with pytest.raises(UserError, match=message):
        read(write_rows([{"prompt": "p", "text": "t"}]))


@pytest.mark.parametrize("name", ["a.txt", "A.TXT", "a.txt.gz", "a.txt.zst"])
def test_a_plain_text_is_one_row(tmp_path, name):
    text = "One.\r\n\n  Two.\u2028\n"
    content = b"\xef\xbb\xbf" + text.encode()
    (tmp_path / name).write_bytes(compressed(content, name))
    for source in (tmp_path / name, tmp_path, tmp_path / "[aA].*"):
        (row,) = read_corpus(str(source), "train", BadRows("error"), {"text": "of other files"})
        assert (row.prompt, row.response) == (None, "One.\n\n  Two.\u2028\n")
        assert row.location == str(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "has an empty text"), (b" \n", "has an empty text"), (b"\xff\n", "is not UTF-8")]
)
def test_a_bad_plain_text_is_refused_or_skipped(tmp_path, content, reason):
    (tmp_path / "a.txt").write_bytes(content)
    (tmp_path / "b.txt").write_text("b")
    with pytest.raises(UserError, match=f"a.txt: {reason}$"):
        read(tmp_path)
    assert read(tmp_path, "skip") == [(None, "b")]


@pytest.mark.parametrize(("row", "reason"), BAD)
def test_a_bad_row_is_refused_by_file_and_row(write_rows, row, reason):
    path = write_rows([GOOD, "", row, GOOD])
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}, row 3: {reason}")
    assert "\n" not in str(caught.value)


def test_a_lone_surrogate_in_a_column_that_is_not_read_does_not_matter(write_rows):
    whole = '{"prompt": "\\ud83d\\ude00", "response": "r", "id": "\\ud83d", "\\ude00": 1}'
    assert read(write_rows([whole])) == [("\N{GRINNING FACE}", "r")]


def test_bad_rows_are_skipped_counted_and_summarised(write_rows):
    path = write_rows([row for bad, _ in BAD for row in (bad, GOOD)])
    bad = BadRows("skip")
    assert len(list(read_corpus(path, "train", bad))) == len(BAD)
    counts = {reason: [r for _, r in BAD].count(reason) for _, reason in BAD}
    assert bad.counts == counts
    summary = bad.summary(len(BAD))
    assert summary.startswith(f"corpus: kept {len(BAD)} rows, skipped {len(BAD)}: ")
    assert all(f"{count} {reason}" in summary for reason, count in counts.items())
    assert "\n" not in summary


def test_the_summary_is_empty_when_nothing_was_skipped():
    assert BadRows("skip").summary(3) == ""


def test_wrong_columns_names_what_was_expected_and_found(write_rows):
    with pytest.raises(UserError, match=r"row 1: has wrong columns \(expected the columns .*, got input, output\)"):
        read(write_rows([{"input": "p", "output": "r"}]))


def test_bytes_that_are_no_text_are_bad_json(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"prompt": "\xff", "response": "r"}\n')
    with pytest.raises(UserError, match=r"a.jsonl, row 2: is not valid JSON"):
        read(str(path))
    assert read(str(path), "skip") == [("p", "r")]


def test_what_else_the_last_turn_holds_is_named(write_rows):
    last = {**CALL, "content": "so", "reasoning_content": "x"}
    reason = r"row 1: has messages that end in more than a text \(got tool_calls, reasoning_content, which"
    with pytest.raises(UserError, match=reason):
        rows_of(write_rows([{"messages": [TURNS[0], last]}]))


def rows_of(path):
    return list(read_corpus(path, "train", BadRows("error"), chat=ChatTurns(tool_turns="template")))


@pytest.mark.parametrize("content", ["", None, "I look."])
def test_calls_results_and_tools_of_earlier_turns_are_kept(write_rows, content):
    call = {**CALL, "content": content}
    (row,) = rows_of(write_rows([{"messages": [TURNS[0], call, RESULT, TURNS[1]], "tools": [TOOL]}]))
    kept = call if content is not None else {name: value for name, value in call.items() if name != "content"}
    assert (row.prompt, row.prompt.tools, row.response) == ([TURNS[0], kept, RESULT], [TOOL], "a")


@pytest.mark.parametrize(("column", "expected"), [(None, None), ([], None), ("", None), ("[]", None), ("null", None)])
def test_no_tools(write_rows, column, expected):
    (row,) = rows_of(write_rows([{"messages": TURNS, "tools": column}]))
    assert row.prompt.tools is expected


def test_tools_as_json_in_a_text(write_rows):
    (row,) = rows_of(write_rows([{"messages": TURNS, "tools": json.dumps([TOOL])}]))
    assert row.prompt.tools == [TOOL]


def test_lists_of_text_parts_are_joined(write_rows):
    parts = [{"type": "text", "text": "a "}, {"text": "b"}, " c"]
    messages = [{"role": role, "content": parts} for role in ("system", "user", "assistant")]
    (row,) = rows_of(write_rows([{"messages": messages}]))
    assert ([turn["content"] for turn in row.prompt], row.response) == (["a b c"] * 2, "a b c")


def test_a_part_that_is_not_text_is_named(write_rows):
    parts = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]
    with pytest.raises(UserError, match=r"row 1: has a message with a part that is not text \(got 'image_url'\)$"):
        read(write_rows([{"messages": [{"role": "user", "content": parts}, TURNS[1]]}]))


def test_a_row_with_a_lone_surrogate_is_bad_as_a_whole(write_rows):
    path = write_rows([{"messages": [*TURNS, TURNS[0], {"role": "assistant", "content": "half \ud83d"}]}])
    bad = BadRows("skip")
    assert not list(read_corpus(path, "train", bad, chat=ChatTurns("all")))
    assert bad.counts == {"has a lone surrogate": 1}


def test_messages_that_are_nested_too_deeply_are_a_bad_row(write_rows):
    user = '{"role": "user", "content": "u", "extra": ' + "[" * 200 + "]" * 200 + "}"
    row = '{"messages": [' + user + ', {"role": "assistant", "content": "a"}]}'
    with pytest.raises(UserError, match="row 1: has messages that are nested too deeply"):
        rows_of(write_rows([row]))


def test_parquet_fills_no_nulls_into_messages_and_tools(tmp_path):
    from datasets import Dataset

    other = {"type": "function", "function": {"name": "count", "parameters": {"limit": {"type": "integer", "max": 3}}}}
    second = {**CALL, "content": None, "tool_calls": [{"function": {"name": "count", "arguments": {"limit": 3}}}]}
    rows = [
        {"messages": [TURNS[0], CALL, RESULT, TURNS[1]], "tools": [TOOL, other]},
        {"messages": [TURNS[0], second, RESULT, TURNS[1]], "tools": None},
        {"messages": TURNS, "tools": []},
    ]
    Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
    first, again, plain = rows_of(str(tmp_path / "a.parquet"))
    assert (first.prompt, first.prompt.tools) == ([TURNS[0], CALL, RESULT], [TOOL, other])
    assert again.prompt[1] == {"role": "assistant", "tool_calls": second["tool_calls"]}
    assert (plain.prompt, plain.prompt.tools) == (TURNS[:1], None)


@pytest.mark.parametrize("name", ["none.jsonl", "none.json", "none.parquet", "none.txt"])
def test_a_missing_file_is_refused(tmp_path, name):
    with pytest.raises(UserError, match=f"corpus: no such file: '.*{name}'"):
        read(str(tmp_path / name))


def test_a_folder_or_foreign_file_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,response\n")
    for path in (tmp_path, tmp_path / "a.csv", ""):
        with pytest.raises(UserError, match=r"corpus: expected a .jsonl, .json, .parquet or .txt file"):
            read(str(path))


def test_hub_data_sets_by_id_config_and_split(monkeypatch):
    calls = []

    def load_dataset(name, config, split):
        calls.append((name, config, split))
        return [GOOD, {"prompt": "p"}]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert read("some/set", "skip") == [("p", "r")]
    with pytest.raises(UserError, match="some/set:main, split val, row 2: has wrong columns"):
        read("some/set:main", split="val")
    assert calls == [("some/set", None, "train"), ("some/set", "main", "val")]


def test_a_hub_data_set_that_cannot_be_had_is_refused_in_one_line(monkeypatch):
    def load_dataset(*_, **__):
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(UserError, match=r"corpus: 'some/set' is no file, .*'train': ConnectionError: no network"):
        read("some/set")


def test_an_unknown_policy_is_refused():
    with pytest.raises(UserError, match="on_bad_row: expected 'error' or 'skip', got 'ignore'"):
        BadRows("ignore")
