import io
import re

import pytest
from rich.console import Console

from dmaxlit.cli.chat.answer_view import AnswerView
from dmaxlit.cli.chat.frames import Cell, Frame
from dmaxlit.engine import Generation, TokenState

WORDS = " ".join(f"word{number}" for number in range(60))


def console_of(width=40, height=12, **options):
    return Console(
        file=io.StringIO(), width=width, height=height, highlight=False, force_terminal=True, color_system="truecolor",
        _environ={"TERM": "xterm", **options},
    )  # fmt: skip


def finished(text, forwards=9):
    answer = Generation([1], forwards, True, 0, prompt="", text=text)
    return Frame(text, (), forwards, 1, 1, answer)


def displayed(console, frames, monkeypatch):
    monkeypatch.setattr("dmaxlit.cli.chat.answer_view._SECONDS_PER_FRAME", 0)
    with AnswerView(console) as view:
        for frame in frames:
            view.show(frame)
    return console.file.getvalue()


def screen(output):
    """Return the lines that a terminal holds in the end; understands only what rich's Live writes."""
    lines, row = [""], 0
    for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\n|\r|[^\x1b\n\r]+", output):
        if part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part.endswith("A"):
            row -= int(part[2:-1])
        elif part[0] not in "\r\x1b":
            lines[row] += part
    return [line.rstrip() for line in lines if line.strip()]


def test_an_answer_longer_than_the_screen_is_whole_in_the_end(monkeypatch):
    frames = [Frame(WORDS[:end], [Cell("\u2591", TokenState.MASKED)], 1, 1, 1) for end in range(0, len(WORDS), 7)]
    lines = screen(displayed(console_of(), [*frames, finished(WORDS)], monkeypatch))
    assert " ".join(lines) == WORDS
    assert max(map(len, lines)) <= 40


def test_line_breaks_of_an_answer_stay(monkeypatch):
    text = "one\n\n  two\n" + "three " * 12 + "\nfour"
    frames = [Frame(text[:end], (), 1, 1, 1) for end in range(len(text))]
    lines = screen(displayed(console_of(), [*frames, finished(text)], monkeypatch))
    assert lines == ["one", "  two", ("three " * 6).strip(), ("three " * 6).strip(), "four"]


def test_states_differ_with_colours_and_without(monkeypatch):
    cells = [
        Cell("\u2591", TokenState.MASKED), Cell("soft", TokenState.SOFT), Cell("token", TokenState.TOKEN),
        Cell("new", TokenState.TOKEN, changed=True),
    ]  # fmt: skip
    for options, colours in [({}, {"33", "36"}), ({"NO_COLOR": "1"}, set())]:
        output = displayed(console_of(**options), [Frame("ok ", cells, 3, 5, 7), finished("ok")], monkeypatch)
        styles = dict(
            reversed(pair) for pair in re.findall(r"\x1b\[([0-9;]+)m(\u2591|soft|token|new|7 tokens)", output)
        )
        assert len({styles["\u2591"], styles["soft"], styles["token"], styles["new"]}) == 4
        codes = {code for style in styles.values() for code in style.split(";")}
        assert {code for code in codes if code in {"33", "36"}} == colours
        assert "7 tokens, 3 forwards, TPF 2.33" in output


@pytest.mark.parametrize("options", [{"TERM": "dumb"}, None])
def test_without_a_terminal_only_the_answer_is_printed(options, monkeypatch):
    console = console_of(**options) if options else Console(file=io.StringIO(), width=40)
    frames = [Frame("wor", [Cell("\u2591", TokenState.MASKED)], 1, 1, 1), finished(WORDS)]
    assert displayed(console, frames, monkeypatch) == f"{WORDS}\n"


@pytest.mark.parametrize("stopped", [False, True])
def test_an_answer_cannot_control_the_terminal(stopped, monkeypatch):
    hostile = "\x1b]0;owned\x07[bold]:smile:\r\u202e"
    frames = [Frame(hostile, [Cell(hostile, TokenState.TOKEN)], 1, 1, 1), *([] if stopped else [finished(hostile)])]
    output = displayed(console_of(width=100), frames, monkeypatch)
    assert r"\x1b]0;owned\x07[bold]:smile:\r\u202e" in output
    assert not set("\x07\u202e") & set(output)
    assert "\x1b]" not in output
    assert ("[stopped]" in output) == stopped
