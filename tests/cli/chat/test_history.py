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


def test_a_model_whose_name_is_not_utf_8_has_a_history(session, tmp_path):
    history = ChatHistory(tmp_path / "chat.jsonl", "caf\udce9")
    list(session.answer("3 +1 ?"))
    history.add(session)
    assert json.loads((tmp_path / "chat.jsonl").read_text("utf-8"))["model"] == "caf\udce9"
    assert len(history.resume().exchanges) == 1


def test_a_row_after_half_a_one_is_a_row_of_its_own(session, tmp_path):
    path = tmp_path / "chat.jsonl"
    path.write_text(row_of("aa", "1") + "\n" + row_of("aa", "2")[:-9])
    history = ChatHistory(path, "m")
    for _ in range(2):
        list(session.answer("3 +1 ?"))
        history.add(session)
    assert history.texts() == ["1", "3 +1 ?"]
    assert len(history.resume().exchanges) == 2
    assert len(path.read_text().splitlines()) == 4


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


def row_of(conversation, prompt, response="r", **fields):
    row = {"conversation": conversation, "time": "t", "system": "s", "prompt": prompt, "response": response}
    return json.dumps({**row, "num_tokens": 1, "num_forwards": 2, "seed": 3, **fields})


def test_a_conversation_is_resumed_with_the_answers_that_were_not_replaced(session, tmp_path):
    path = tmp_path / "chat.jsonl"
    history = ChatHistory(path, "m")
    session.set_system("9")
    for text in ("3 +1 ?", "4 -2 ?"):
        list(session.answer(text))
        history.add(session)
    list(session.retry())
    history.add(session, is_retry=True)
    kept = [(exchange.user, exchange.answer, exchange.seed) for exchange in session.exchanges]
    again = ChatHistory(path, "m")
    earlier = again.resume()
    assert earlier.system == "9"
    assert [(exchange.user, exchange.answer, exchange.seed) for exchange in earlier.exchanges] == kept
    session.resume(earlier.system, earlier.exchanges)
    list(session.answer("1 +1 ?"))
    again.add(session)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["retry"] for row in rows] == [False, False, True, False]
    assert len({row["conversation"] for row in rows}) == 1
    assert len(again.resume().exchanges) == 3


def test_the_conversation_that_was_added_to_last_is_resumed_or_the_one_of_a_name(tmp_path):
    path = tmp_path / "chat.jsonl"
    rows = [row_of("aa", "1"), row_of("ab", "2"), row_of("aa", "3"), row_of("bc", "4", response=None)]
    path.write_text("\n".join([*rows, "broken", row_of("bd", "5", seed=True)]) + "\n")
    history = ChatHistory(path, "m")
    assert [exchange.user for exchange in history.resume().exchanges] == ["1", "3"]
    assert [exchange.user for exchange in history.resume("ab").exchanges] == ["2"]
    for name in ("a", "bc", "x"):
        with pytest.raises(UserError) as refused:
            history.resume(name)
        wanted = f"resume: expected the name of one conversation, got {name!r}; the latest of {str(path)!r}: aa, ab"
        assert str(refused.value) == wanted
    path.write_text("")
    with pytest.raises(UserError, match=r"^resume: expected a conversation to continue; the latest of .*: none$"):
        history.resume()
