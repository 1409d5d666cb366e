"""What a model or a file says is shown on the terminal, and never obeyed."""

import json
import logging
import shutil
import sys
import warnings

import pytest

from dmaxlit.backbone.formats.hub import BUILTIN_MODELS
from dmaxlit.cli import main
from dmaxlit.cli.terminal import print_traceback, printable_messages
from dmaxlit.errors import DMaxWarning

OSC = "\x1b]0;owned\x07"


def test_warnings_are_shown_the_same_way_and_only_inside():
    with printable_messages():
        shown = warnings.formatwarning(f"column {OSC}", UserWarning, "file", 1)
        ours = warnings.formatwarning(f"rows: {OSC}", DMaxWarning, "file", 1)
    assert r"column \x1b]0;owned\x07" in shown
    assert ours == "warning: rows: \\x1b]0;owned\\x07\n"
    assert OSC in warnings.formatwarning(OSC, UserWarning, "file", 1)


def test_logs_are_shown_the_same_way_and_only_inside(caplog):
    with caplog.at_level(logging.INFO):
        with printable_messages():
            logging.getLogger("lightning").info("row %s", OSC)
        logging.getLogger("lightning").info("row %s", OSC)
    assert caplog.messages == [r"row \x1b]0;owned\x07", f"row {OSC}"]


def test_a_traceback_is_shown_the_same_way(capsys):
    error = ValueError(f"row {OSC}")
    print_traceback(ValueError, error, None)
    assert capsys.readouterr().err == "ValueError: row \\x1b]0;owned\\x07\n"


def test_the_process_s_own_command_line_shows_tracebacks_so(monkeypatch, capsys):
    monkeypatch.setattr("sys.excepthook", None)
    monkeypatch.setattr("sys.argv", ["dmaxlit", "--version"])
    main()
    assert sys.excepthook is print_traceback


def test_tables_of_what_files_say_cannot_control_the_terminal(dmax, tmp_path, monkeypatch):
    monkeypatch.setattr("dmaxlit.evaluation.compare.compare_runs", lambda *runs: [])
    monkeypatch.setattr("dmaxlit.evaluation.compare.comparison_table", lambda comparisons: f"task {OSC}\n")
    assert dmax("evaluate --compare a b").out == "task \\x1b]0;owned\\x07\n"


@pytest.fixture
def hostile_model(tmp_path):
    """The shipped model with an escape sequence in the text of its most frequent tokens."""
    folder = shutil.copytree(BUILTIN_MODELS / "chain-base", tmp_path / "m")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    for word in ("take", "so", "with", "."):
        vocabulary[OSC + word] = vocabulary.pop(word)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


@pytest.mark.parametrize("trace", ["", "--trace"])
def test_an_answer_cannot_control_the_terminal(dmax, hostile_model, trace):
    ended = dmax(f'generate --model {hostile_model} --prompt "7 +1 *3 -2 ?" --max_new_tokens 32 {trace}')
    assert ended.status == 0, ended.err
    assert r"\x1b]0;owned\x07" in ended.out
    assert "\x07" not in ended.out


def test_a_prompt_and_an_error_line_cannot_either(dmax, base):
    ended = dmax(["generate", "--model", "builtin:chain-base", "--prompt", f"7 {OSC} ?"])
    assert "\x1b" not in ended.out + ended.err
    assert r"\x1b]0;owned\x07" in ended.out
    ended = dmax(["fit", "--config", str(base), f"--model.{OSC}", "1"])
    assert ended.status == 2
    assert "\x1b" not in ended.err
    assert r"\x1b]0;owned" in ended.err


def test_a_corpus_cannot_either(dmax, base, tmp_path):
    (tmp_path / "x.jsonl").write_text(json.dumps({f"prom{OSC}pt": "a", "response": "b"}) + "\n")
    ended = dmax(f"fit --config {base} --data.corpus x.jsonl")
    assert ended.status == 2
    assert "\x1b]" not in ended.err
