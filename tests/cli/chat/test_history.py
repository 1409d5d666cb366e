import json
import stat
from pathlib import Path

import pytest

from dmaxlit.cli.chat.history import ChatHistory, default_path
from dmaxlit.errors import UserError


def test_every_answer_is_a_row_that_only_the_owner_reads(session, tmp_path):
    path = tmp_path / "new" / "chat.jsonl"
    history = ChatHistory(path, "m")
    for begins in (False, False, True):
        if begins:
            history.begin()
        list(session.answer("3 +1 ?"))
        history.add(session)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    answers = [exchange.answer for exchange in session.exchanges]
    assert [(row["prompt"], row["response"]) for row in rows] == [("3 +1 ?", answer) for answer in answers]
    assert rows[0]["conversation"] == rows[1]["conversation"] != rows[2]["conversation"]
    assert rows[0]["decoder"] == "threshold threshold=0.5"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_earlier_texts_come_back_whatever_else_is_in_the_file(tmp_path):
    path = tmp_path / "chat.jsonl"
    rows = ['{"prompt": "a"}', '{"prompt": "a"}', "broken", "[1]", '{"prompt": 3}', '{"prompt": "b"}', "\udcff"]
    path.write_bytes("\n".join(rows).encode(errors="surrogateescape"))
    assert ChatHistory(path, "m").texts() == ["a", "b"]


def test_the_default_is_in_the_state_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_path() == tmp_path / "dmaxlit" / "chat.jsonl"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert default_path() == Path.home() / ".local" / "state" / "dmaxlit" / "chat.jsonl"


def test_what_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path, reason in [(tmp_path, "expected a file to write"), (tmp_path / "file" / "x", "cannot write")]:
        with pytest.raises(UserError, match=f"^history: {reason}"):
            ChatHistory(path, "m")
