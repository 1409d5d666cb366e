import gzip
import io
import json
import subprocess
import sys

import pyarrow as pa
import pytest

from dmaxlit.data.prompt_reader import PromptRow, naming_rows, read_prompts
from dmaxlit.errors import PromptError, UserError
from tests.processes import ENVIRONMENT

TEXTS = ["one\u2028two\x0cthree\x85", "日本 ?", "  7 +1 ?"]


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(name, content):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return name

    return write


def texts(source):
    return [row.prompt for row in read_prompts(source)]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_row_is_a_prompt_whatever_its_characters(write, end, mark):
    lines = [json.dumps({"prompt": text}, ensure_ascii=False) for text in TEXTS]
    assert texts(write("p.txt", mark + end.join(TEXTS))) == TEXTS
    assert texts(write("p.jsonl", mark + end.join(lines) + end)) == TEXTS


@pytest.mark.slow
def test_the_encoding_does_not_depend_on_the_locale(write, tmp_path):
    write("p.txt", "日本 é\n")
    (tmp_path / "read.py").write_text(
        "import locale, sys\nlocale.getpreferredencoding = locale.getencoding = lambda *_: 'ascii'\n"
        "from dmaxlit.data.prompt_reader import read_prompts\nprint(ascii(read_prompts(sys.argv[1])[0].prompt))\n"
    )
    command = [sys.executable, "-X", "utf8=0", tmp_path / "read.py", tmp_path / "p.txt"]
    ended = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert ended.stdout.strip() == ascii("日本 é"), ended.stderr


def test_standard_input_is_utf_8_one_prompt_a_line(monkeypatch):
    stdin = io.TextIOWrapper(io.BytesIO("\ufeffé\u2028b\r\nc".encode()), encoding="ascii")
    monkeypatch.setattr("sys.stdin", stdin)
    assert read_prompts("-") == [PromptRow("é\u2028b", "-, row 1"), PromptRow("c", "-, row 2")]


def test_columns_texts_and_parquet(write, tmp_path):
    from datasets import Dataset

    rows = [{"prompt": "a", "question": "x"}, {"question": "b"}, {"prompt": None, "question": "c"}, "d"]
    assert texts(write("p.jsonl", "\n".join(map(json.dumps, rows)))) == ["a", "b", "c", "d"]
    Dataset.from_list([{"question": "a"}, {"question": "b"}]).to_parquet(tmp_path / "p.parquet")
    assert read_prompts("p.parquet")[1] == PromptRow("b", "p.parquet, row 2", {})


def test_the_other_columns_of_a_row_are_kept(write):
    rows = [{"id": 7, "question": "a", "answer": None}, {"prompt": "b", "question": "x"}, "c"]
    read = read_prompts(write("p.jsonl", "\n".join(map(json.dumps, rows))))
    assert [row.extra for row in read] == [{"id": 7, "answer": None}, {"question": "x"}, {}]


def test_json_arrays_and_compressed_files(write):
    assert read_prompts(write("p.json", json.dumps(["a", {"question": "b"}], indent=1)))[1].location == "p.json, row 2"
    assert texts(write("p.txt.gz", gzip.compress("é\u2028\nb\n".encode()))) == ["é\u2028", "b"]
    assert texts(write("p.txt.zst", pa.compress("é\nb\n".encode(), "zstd", asbytes=True))) == ["é", "b"]
    assert texts(write("p.jsonl.gz", gzip.compress(b'"a"\n'))) == ["a"]


def test_folders_and_patterns(write, tmp_path):
    write("b.jsonl", '"b"\n')
    write("a.jsonl", '"a"\n')
    assert texts(str(tmp_path)) == texts("*.jsonl") == ["a", "b"]


def test_blank_lines_count_as_rows_but_are_no_prompts(write):
    assert [row.location for row in read_prompts(write("p.txt", "\na\n \nb\n"))] == ["p.txt, row 2", "p.txt, row 4"]


@pytest.mark.parametrize(
    ("name", "content", "refusal"),
    [
        ("p.txt", b"a\ncaf\xe9\n", "p.txt, row 2: expected text in UTF-8, got other bytes"),
        ("p.jsonl", b'"a"\n"caf\xe9"\n', "p.jsonl, row 2: is not valid JSON (not UTF-8)"),
        ("p.jsonl", '"a"\n' + "[" * 200_000, "p.jsonl, row 2: is not valid JSON (nested too deeply)"),
        ("p.jsonl", '"a"\n"half \\ud83d"', "p.jsonl, row 2: has a lone surrogate (\\ud83d)"),
        ("p.jsonl", '{"prompt": "\\ude00"}', "p.jsonl, row 1: has a lone surrogate (\\ude00)"),
        ("p.jsonl", '"a"\n{"text": "b"}', "p.jsonl, row 2: expected a text, or an object with a prompt or question, "),
        ("p.jsonl", '{"prompt": ["a"]}', "p.jsonl, row 1: expected a text, or an object with a prompt or question, "),
        ("p.jsonl", "3", "p.jsonl, row 1: expected a text, or an object with a prompt or question, "),
        ("p.jsonl", '{"instruction": "", "input": ""}', "p.jsonl, row 1: expected a text, or an object with "),
        ("p.jsonl", "\n", "prompts: expected at least one, found none in 'p.jsonl'"),
        ("p.txt", "\ufeff", "prompts: expected at least one, found none in 'p.txt'"),
    ],
)
def test_a_row_that_is_no_prompt_is_refused_by_number(write, name, content, refusal):
    with pytest.raises(UserError) as caught:
        read_prompts(write(name, content))
    assert str(caught.value).startswith(refusal)
    assert "\n" not in str(caught.value)


def test_a_prompt_that_cannot_be_decoded_is_named_by_its_row(write):
    rows = read_prompts(write("p.txt", "a\n\nb\n"))
    with pytest.raises(UserError, match=r"^p.txt, row 3: too long$"), naming_rows(rows):
        raise PromptError(1, "too long")
    with pytest.raises(PromptError, match=r"^prompts\[1\]: too long$"), naming_rows([]):
        raise PromptError(1, "too long")


def test_a_file_that_cannot_be_read_is_refused(write, tmp_path):
    for name, refusal in [
        ("gone.txt", "prompts: cannot read 'gone.txt' (No such file or directory)"),
        ("gone.jsonl", "prompts: no such file: 'gone.jsonl'"),
        (str(tmp_path), f"prompts: expected a .jsonl, .json or .parquet file in '{tmp_path}', found none"),
    ]:
        with pytest.raises(UserError) as caught:
            read_prompts(name)
        assert str(caught.value) == refusal


SYSTEM, USER = {"role": "system", "content": "be brief"}, {"role": "user", "content": "2 + 2?"}
ANSWER, MORE = {"role": "assistant", "content": "4"}, {"role": "user", "content": "sure?"}
PARTS = {"role": "user", "content": [{"type": "text", "text": "2 +"}, {"type": "text", "text": " 2?"}]}
RESULT = {"role": "tool", "content": "4"}
CALL = {"role": "assistant", "tool_calls": [{"function": {"name": "add"}}]}
FORMS = {
    "messages": ({"messages": [SYSTEM, USER, ANSWER, MORE]}, [SYSTEM, USER, ANSWER, MORE]),
    "parts": ({"messages": [PARTS]}, [USER]),
    "prompt of messages": ({"prompt": [SYSTEM, USER]}, [SYSTEM, USER]),
    "a result of a tool": ({"messages": [USER, CALL, RESULT]}, [USER, CALL, RESULT]),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "2 + 2?"}], "system": "be brief"},
        [SYSTEM, USER],
    ),
    "alpaca": ({"instruction": "Add.", "input": "2 and 2"}, "Add.\n2 and 2"),
    "alpaca with a history": (
        {"instruction": "sure?", "history": [["2 + 2?", "4"]], "system": "be brief"},
        [SYSTEM, USER, ANSWER, MORE],
    ),
    "a prompt comes first": ({"prompt": "2 + 2?"}, "2 + 2?"),
}


@pytest.mark.parametrize("name", FORMS)
def test_rows_in_the_forms_of_corpora_without_their_response(write, name):
    record, prompt = FORMS[name]
    others = {"id": 7, "response": "4", "completion": [ANSWER], "output": "4"}
    (row,) = read_prompts(write("p.jsonl", json.dumps({**others, **record})))
    assert row == PromptRow(prompt, "p.jsonl, row 1", others)


def test_a_prompt_comes_before_messages_and_these_before_other_forms(write):
    messages, others = {"messages": [USER]}, {"conversations": [MORE], "instruction": "x"}
    rows = [{"question": "2 + 2?", **messages, **others}, {**messages, **others}]
    first, second = read_prompts(write("p.jsonl", "\n".join(map(json.dumps, rows))))
    assert (first.prompt, first.extra) == ("2 + 2?", {**messages, **others})
    assert (second.prompt, second.extra) == ([USER], others)


def test_tools_are_part_of_a_conversation_and_kept(write):
    tools = [{"type": "function", "function": {"name": "add"}}]
    for column in (tools, json.dumps(tools)):
        (row,) = read_prompts(write("p.jsonl", json.dumps({"messages": [USER], "tools": column})))
        assert row.prompt.tools == tools
        assert row.extra == {"tools": column}


def test_messages_in_parquet_are_values_of_json(write, tmp_path):
    import datetime

    from datasets import Dataset

    seen = datetime.datetime(2026, 1, 2)
    messages = [{**SYSTEM, "seen": seen}, USER]
    Dataset.from_list([{"messages": messages, "seen": seen}]).to_parquet(tmp_path / "p.parquet")
    (row,) = read_prompts(str(tmp_path / "p.parquet"))
    assert row.prompt == [{**SYSTEM, "seen": "2026-01-02T00:00:00"}, USER]
    assert row.extra == {"seen": seen}


@pytest.mark.parametrize(
    ("record", "refusal"),
    [
        ({"messages": [USER, ANSWER]}, "expected messages that end in a user's turn, got one of 'assistant'"),
        ({"messages": [SYSTEM]}, "expected messages that end in a user's turn, got one of 'system'"),
        (
            {"conversations": [{"from": "gpt", "value": "4"}]},
            "expected messages that end in a user's turn, got one of ",
        ),
        ({"messages": []}, "has messages that are not a list of role and content texts"),
        ({"messages": "2 + 2?"}, "has messages that are not a list of role and content texts"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "has a message with a part that is not text",
        ),
        ({"messages": [{"role": "user", "content": " "}]}, "has messages without a text"),
        ({"messages": [USER], "tools": "add"}, "has tools that are not a list of objects (Expecting value"),
        ({"messages": [{**USER, "content": "\ud83d"}]}, "has a lone surrogate (\\ud83d)"),
        ({"messages": [USER], "tools": [{"\ud83d": 1}]}, "has a lone surrogate (\\ud83d)"),
    ],
)
def test_messages_that_are_no_prompt_are_refused(write, record, refusal):
    with pytest.raises(UserError) as caught:
        read_prompts(write("p.jsonl", json.dumps(record)))
    assert str(caught.value).startswith(f"p.jsonl, row 1: {refusal}")


def test_messages_that_are_nested_too_deeply_are_refused(write):
    deep = '{"role": "user", "content": "a", "x": ' + "[" * 200 + "]" * 200 + "}"
    with pytest.raises(UserError, match=r"^p.jsonl, row 1: has messages or tools that are nested too deeply$"):
        read_prompts(write("p.jsonl", f'{{"messages": [{deep}]}}'))


@pytest.mark.parametrize(
    ("record", "columns", "prompt", "extra"),
    [
        ({"q": "a", "prompt": "x"}, {"prompt": "q"}, "a", {"prompt": "x"}),
        ({"chat": [USER], "prompt": "x", "messages": 3}, {"messages": "chat"}, [USER], {"prompt": "x", "messages": 3}),
        ({"task": "a", "data": "b", "input": "c"}, {"instruction": "task", "input": "data"}, "a\nb", {"input": "c"}),
        ({"task": "a"}, {"instruction": "task", "input": "data"}, "a", {}),
        ({"prompt": "a", "functions": 3}, {"tools": "functions"}, "a", {"functions": 3}),
    ],
)
def test_columns_may_have_other_names(write, record, columns, prompt, extra):
    assert read_prompts(write("p.jsonl", json.dumps(record)), columns) == [PromptRow(prompt, "p.jsonl, row 1", extra)]


@pytest.mark.parametrize(
    ("name", "content", "columns", "refusal"),
    [
        ("p.jsonl", '{"prompt": "a"}', {"prompt": "q"}, "p.jsonl, row 1: expected the column 'q', got prompt"),
        ("p.jsonl", '"a"', {"prompt": "q"}, "p.jsonl, row 1: expected the column 'q', got none"),
        ("p.jsonl", '{"prompt": "a"}', {"response": "q"}, "columns: expected 'prompt', 'messages', "),
        ("p.txt", "a", {"prompt": "q"}, "columns: expected prompts in a .jsonl, .json or .parquet file, got 'p.txt'"),
    ],
)
def test_a_column_that_is_absent_or_cannot_be_named_is_refused(write, name, content, columns, refusal):
    with pytest.raises(UserError) as caught:
        read_prompts(write(name, content), columns)
    assert str(caught.value).startswith(refusal)
