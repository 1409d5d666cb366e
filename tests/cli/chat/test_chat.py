"""The command: on a pipe, and in a real pseudo-terminal of 40 columns."""

import io
import json
import os
import re
import signal
import sys

import pexpect
import pytest

import dmaxlit
from tests.cli.chat.conftest import SETTINGS

FIRST, SECOND = "3 +1 ?", "4 -2 ?"


def test_lines_of_a_pipe_are_turns_and_commands(chat, tiny, tmp_path):
    ended = chat([FIRST, "", SECOND, "/stats", "/quit", "never"])
    assert ended.status == 0, ended.err
    module = dmaxlit.load(tiny, probe=False)
    module.tokenizer.chat_template = (tmp_path / "t.jinja").read_text()
    first = module.generate_batch([{"role": "user", "content": FIRST}], SETTINGS)[0]
    turns = [{"role": "user", "content": FIRST}, {"role": "assistant", "content": first.text}]
    second = module.generate_batch([*turns, {"role": "user", "content": SECOND}], SETTINGS)[0]
    lines = ended.out.splitlines()
    assert [lines[0], lines[2]] == [first.text, second.text]
    assert lines[1].startswith(f"{first.num_tokens} tokens, {first.num_forwards} forwards, TPF ")
    assert lines[-1].startswith("2 answers: ")
    assert "\x1b" not in ended.out
    assert not (tmp_path / "state").exists()


def test_a_pipe_is_utf_8_in_any_locale(dmax, tiny, chat, monkeypatch):
    for encoding in ("ascii", "utf-8"):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("/é\n".encode()), encoding=encoding))
        assert dmax(f"chat --model {tiny} --probe false").refusal.startswith("unknown command '/é'")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff\n"), encoding="utf-8"))
    ended = dmax(f"chat --model {tiny} --probe false")
    assert ended.status == 2
    assert "surrogate" in ended.refusal


def test_the_decoder_of_the_model_answers_unless_another_is_named(dmax, tiny, tmp_path, monkeypatch):
    module = dmaxlit.load(tiny, probe=False)
    module.set_decoding("threshold", threshold=0.5)
    module.export(tmp_path / "m")
    for flags, title in [("", "threshold threshold=0.5"), ("--decoder spd", "spd")]:
        monkeypatch.setattr("sys.stdin", io.StringIO("/decoder\n"))
        ended = dmax(f"chat --model {tmp_path / 'm'} --probe false {flags}")
        assert ended.out.startswith(f"decoder: {title}; known: ")


def test_without_a_template_a_system_s_turn_is_refused(chat):
    assert chat([FIRST], "--system 3").refusal.startswith("system: expected a model with a chat template")


def test_a_refused_line_of_a_pipe_ends_the_command(chat):
    ended = chat([FIRST, "/nope", SECOND])
    assert ended.refusal.startswith("unknown command '/nope'")
    assert ended.out.count("forwards") == 1


def test_a_text_may_begin_with_a_slash(chat, tmp_path):
    chat(["//3 +1 ?"], "--history h.jsonl")
    assert json.loads((tmp_path / "h.jsonl").read_text())["prompt"] == "/3 +1 ?"


def test_bad_settings_are_refused_in_one_line(chat):
    for flags, refusal in [
        ("--delay=-1", "delay: expected at least 0, got -1"),
        ("--delay 1e300", "delay: expected at most 3600 seconds, got 1e+300"),
        ("--history .", "history: expected a file to write, got the folder"),
        ("--decoder nope", "unknown decoder 'nope'"),
        ("--max_new_tokens 0", "max_new_tokens: expected at least 1, got 0"),
    ]:
        assert chat([FIRST], flags).refusal.startswith(refusal)


def test_a_conversation_goes_on_in_a_later_chat(chat, tmp_path):
    together = chat([FIRST, SECOND], "--chat_template t.jinja --history whole.jsonl").out
    first = chat([FIRST], "--chat_template t.jinja --history h.jsonl").out
    second = chat([SECOND], "--chat_template t.jinja --history h.jsonl --resume").out
    untimed = [re.sub(r", [\d.]+ s", "", text) for text in (together, first + second)]
    assert untimed[0] == untimed[1]
    (name,) = {json.loads(line)["conversation"] for line in (tmp_path / "h.jsonl").read_text().splitlines()}
    assert chat([], f"--chat_template t.jinja --history h.jsonl --resume {name[:6]}").status == 0
    assert chat([], "--chat_template t.jinja --history h.jsonl --resume x").refusal.startswith(
        "resume: expected the name of one conversation, got 'x'"
    )
    assert chat([], "--history h.jsonl --resume").refusal.startswith("resume: expected a model with a chat template")
    assert chat([], "--resume ''").refusal.startswith("resume: expected the beginning of a conversation's name, got an")
    assert chat([], "--resume --history false").refusal == "resume: expected a history, got --history false"
    assert chat([], "--resume").refusal.startswith("resume: expected a conversation to continue; the latest of ")


@pytest.mark.slow
def test_a_conversation_in_a_terminal_of_40_columns(tiny, tmp_path):
    """One process for all of it, since it takes seconds to start."""
    environment = {**os.environ, "TERM": "xterm", "NO_COLOR": "1", "XDG_STATE_HOME": str(tmp_path)}
    environment["PROMPT_TOOLKIT_NO_CPR"] = "1"  # a pseudo-terminal does not say where its cursor is
    environment.pop("COLUMNS", None)
    # spd needs many forwards here, so that there is something to stop.
    flags = ["--model", str(tiny), "--probe", "false", "--max_new_tokens", "48", "--delay", "0.05"]
    program = pexpect.spawn(
        sys.executable, ["-m", "dmaxlit", "chat", *flags], env=environment, dimensions=(20, 40), timeout=60,
        encoding="utf-8",
    )  # fmt: skip
    asks = r">[^\n]*\x1b\[\?25h"  # the cursor is shown again
    program.expect("no chat")
    program.expect(asks)
    program.send(f"{FIRST}\r")
    program.expect("\u2591")
    program.expect("Ctrl-")  # the line of figures, cut off at 40 columns
    program.kill(signal.SIGINT)
    program.expect("stopped")
    program.expect(asks)
    program.send(f"/trace {tmp_path / 'stopped.html'}\r")
    program.expect("trace: ")
    program.expect(asks)
    program.send("/decoder threshold threshold=0\r")
    program.expect("decoder: threshold")
    program.send("/nope\r")
    program.expect("error: unknown")
    program.send(f"{SECOND}\r")
    program.expect("cut off by")
    program.expect(asks)
    program.sendcontrol("c")
    program.expect("/quit or Ctrl-D")
    program.expect(asks)
    program.sendcontrol("d")
    program.expect(pexpect.EOF)
    program.close()
    assert program.exitstatus == 0
    rows = [json.loads(line) for line in (tmp_path / "dmaxlit" / "chat.jsonl").read_text().splitlines()]
    assert rows[-1]["prompt"] == SECOND
    assert "stopped</title>" in (tmp_path / "stopped.html").read_text()
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", program.before or "")


def test_a_decoder_of_one_s_own_that_fails_does_not_end_a_typed_chat(chat, tmp_path, monkeypatch):
    monkeypatch.setattr("dmaxlit.cli.chat.command._is_typed", lambda: True)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "failing_decoders.py").write_text(
        "from dmaxlit.decoding import ThresholdDecoder\n"
        "class Fails(ThresholdDecoder):\n"
        "    def step(self, state, logits, special): return state.nothing\n"
        "class Demands(ThresholdDecoder):\n"
        "    def __init__(self): self.wish = self.demand + 1\n"
    )
    commands = [f"/decoder failing_decoders.{name}" for name in ("Fails", "Demands")]
    ended = chat([commands[0], FIRST, commands[1], "/decoder threshold", FIRST, "/stats"], "--history false")
    assert ended.status == 0, ended.err
    errors = [line for line in ended.out.splitlines() if line.startswith("error: ")]
    assert errors[0].startswith("error: decoder: it failed (AttributeError: 'BlockState' object has no attribute")
    assert errors[1].startswith(
        "error: decoder: expected one that can be made with these options, got AttributeError: "
    )
    assert "1 answer: " in ended.out
    monkeypatch.setattr("dmaxlit.cli.chat.command._is_typed", lambda: False)
    with pytest.raises(AttributeError):  # on a pipe its author sees where it failed
        chat([commands[0], FIRST])


def test_a_fault_of_ours_is_not_taken_for_one_of_the_line(chat, monkeypatch):
    monkeypatch.setattr("dmaxlit.cli.chat.command._is_typed", lambda: True)
    monkeypatch.setattr("dmaxlit.decoding.ThresholdDecoder.step", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        chat([FIRST], "--history false")


def test_where_the_state_folder_cannot_be_written_nothing_is_kept(chat, tmp_path, monkeypatch):
    (tmp_path / "state").write_text("")
    monkeypatch.setattr("dmaxlit.cli.chat.command._is_typed", lambda: True)
    ended = chat([FIRST])
    assert ended.status == 0, ended.err
    assert ended.err.startswith("history: cannot write ")
    assert ended.err.endswith("; this conversation is not kept\n")
