import json

import pytest

from dmaxlit.data.json_lines import json_line, rows_with_offsets, write_rows
from dmaxlit.errors import UserError

ROWS = [{"text": "á"}, {"text": "line\u2028\r\n"}, {"text": "half a character \ud83d, á"}]


def test_rows_come_back_and_the_file_is_utf_8_whatever_they_hold(tmp_path):
    path = tmp_path / "new" / "a.jsonl"
    write_rows(path, iter(ROWS))
    assert path.read_text("utf-8").splitlines()[0] == '{"text": "á"}'
    read = list(rows_with_offsets(path))
    assert [row for _, row in read] == ROWS
    assert [json.loads(path.read_bytes()[offset:].split(b"\n")[0]) for offset, _ in read] == ROWS


def test_a_file_stays_if_another_cannot_take_its_place(tmp_path):
    write_rows(tmp_path / "a.jsonl", ROWS)
    before = (tmp_path / "a.jsonl").read_bytes()
    with pytest.raises(TypeError):
        write_rows(tmp_path / "a.jsonl", [*ROWS, {"text": object()}])
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


@pytest.mark.parametrize("damaged", [b"\0\0\0\0\n", b'{"text": "hal', b"\xff\n", b"[1]\n", b"\n"])
def test_a_damaged_row_is_named_by_its_byte(tmp_path, damaged):
    begin = json_line(ROWS[0])
    (tmp_path / "a.jsonl").write_bytes(begin + damaged)
    rows = rows_with_offsets(tmp_path / "a.jsonl", advice="; delete it")
    assert next(rows) == (0, ROWS[0])
    with pytest.raises(UserError, match=rf"a.jsonl: is damaged at byte {len(begin)}; delete it$"):
        next(rows)


def test_rows_end_at_a_byte_within_none(tmp_path):
    write_rows(tmp_path / "a.jsonl", ROWS)
    end = len(json_line(ROWS[0]))
    assert list(rows_with_offsets(tmp_path / "a.jsonl", end)) == [(0, ROWS[0])]
    assert list(rows_with_offsets(tmp_path / "a.jsonl", 0)) == []
    with pytest.raises(UserError, match=rf"is damaged at byte {end}$"):
        list(rows_with_offsets(tmp_path / "a.jsonl", end + 1))
