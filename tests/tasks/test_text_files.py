import io
import json
import os
import threading

import pytest

from dmaxlit.errors import UserError
from dmaxlit.tasks.json_values import TooDeepError
from dmaxlit.tasks.text_files import decoded, open_text, parse_json, parse_yaml, rows_of_text

# Where str.splitlines divides a text, and a file of rows does not.
INSIDE = ["\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]


def rows(content):
    return list(rows_of_text(decoded(io.BytesIO(content))))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_rows_end_with_any_line_end(end):
    assert rows(f"a{end}b{end}{end}  {end}c".encode()) == [(1, "a"), (2, "b"), (5, "c")]


@pytest.mark.parametrize("character", INSIDE)
def test_other_separators_are_part_of_the_text(character):
    text = f"before{character}after"
    assert len(text.splitlines()) == 2
    assert rows(f"{text}\nnext\n".encode()) == [(1, text), (2, "next")]


def test_a_byte_order_mark_is_none_of_the_text():
    assert rows("\ufeffa\n\ufeffb".encode()) == [(1, "a"), (2, "\ufeffb")]


@pytest.mark.parametrize("wrong", [b"\xff", b"caf\xe9", b"\xed\xa0\xbd", "a".encode("utf-16")])
def test_a_row_that_is_not_utf_8_leaves_the_others_alone(wrong):
    assert rows(b"a\n" + wrong + b"\n\xc3\xa9\n") == [(1, "a"), (2, None), (3, "é")]


@pytest.mark.parametrize("text", ["", "{", "[1,]", "[" * 200_000, '"a\tb"', "'a'"])
def test_what_is_not_json_has_a_reason(text):
    with pytest.raises(ValueError, match=r"\w"):
        parse_json(text)


def test_json_is_parsed():
    value = {"a": [1, 2.5, None, "日本\u2028"]}
    assert parse_json(json.dumps(value)) == parse_json(json.dumps(value, ensure_ascii=False)) == value


def test_yaml_is_parsed_up_to_a_depth():
    assert parse_yaml("a: [1, {b: null}, é]") == {"a": [1, {"b": None}, "é"]}
    assert parse_yaml("") is None
    assert json.dumps(parse_yaml("[" * 100 + "]" * 100)) == "[" * 100 + "]" * 100
    for text in ("[" * 101 + "]" * 101, "a: " + "[" * 100 + "]" * 100, "[" * 200_000):
        with pytest.raises(TooDeepError, match=r"^nested too deeply$"):
            parse_yaml(text)


def test_a_pipe_is_read_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    writer = threading.Thread(target=(tmp_path / "pipe.txt").write_bytes, args=(b"a\nb\n",))
    writer.start()
    with open_text(tmp_path / "pipe.txt", "prompts") as text:
        assert text.read() == "a\nb\n"
    writer.join()


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    for path, reason in ((tmp_path, "Is a directory"), (tmp_path / "none", "No such file or directory")):
        with pytest.raises(UserError) as caught, open_text(path, "prompts"):
            pass
        assert str(caught.value) == f"prompts: cannot read {str(path)!r} ({reason})"
