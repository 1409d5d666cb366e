"""What a model or a file says is shown on the terminal, and never obeyed."""

import ast
import json
import logging
import re
import shutil
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

import dmaxlit
from dmaxlit.backbone.formats.hub import BUILTIN_MODELS
from dmaxlit.cli import main
from dmaxlit.cli.terminal import print_traceback, printable_messages
from dmaxlit.errors import DMaxWarning

FOLDER = Path(dmaxlit.__file__).parent
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


def test_the_error_of_a_log_is_shown_the_same_way(caplog):
    with printable_messages():
        try:
            raise ValueError(f"row {OSC}")
        except ValueError:
            logging.getLogger("dmaxlit").exception("failed")
    assert caplog.text.endswith("ValueError: row \\x1b]0;owned\\x07\n")
    assert "\x07" not in caplog.text


def printed_raw(path):
    """Yield the lines at which something is printed that may quote a model, a file or a user."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        function, text = ast.unparse(node.func), node.args[0]
        if function not in ("print", "sys.stdout.write", "sys.stderr.write"):
            continue
        is_fixed = isinstance(text, ast.Constant) or re.fullmatch(r"[A-Z_]+", ast.unparse(text)) or (
            isinstance(text, ast.JoinedStr)
            # Counts, and seconds with their format.
            and all(re.fullmatch(r"len\(\w+\)|number|num_prompts|seconds|judged|figures\(.*\)", ast.unparse(part.value))
                    for part in text.values if isinstance(part, ast.FormattedValue))
        )  # fmt: skip
        if not is_fixed and not ast.unparse(text).startswith("printable("):
            yield f"{path.relative_to(FOLDER)}: {ast.unparse(text)}"


def test_every_print_of_the_commands_is_printable():
    raw = [line for top in ("cli", "callbacks") for path in (FOLDER / top).rglob("*.py") for line in printed_raw(path)]
    ours = ["__init__.py: __version__", "__init__.py: _overview()", "listing.py: _TITLES.get(group, group)"]
    assert sorted(raw) == [f"cli/{line}" for line in ours], "wrap what is printed in dmaxlit.errors.printable"


@pytest.mark.parametrize(
    "args",
    [
        f"compare {OSC}/a",
        f"trace {OSC}.safetensors --output x.html",
        f"generate --model {OSC}",
        f"chat --model {OSC}",
        f"serve --model {OSC} --port 0",
        f"evaluate --model {OSC} --task chain",
        f"evaluate --compare {OSC} b",
        f"distill --model {OSC} --output x.jsonl",
        f"export {OSC} x",
        f"convert --model {OSC} --output y",
        f"preview {OSC}.jsonl",
        f"plan --config {OSC}.yaml",
        f"check {OSC}",
        f"list {OSC}",
        f"bench {OSC}",
        f"analyse {OSC}",
        f"fit --config {OSC}.yaml",
        OSC,
    ],
)
def test_no_refusal_obeys_what_it_quotes(dmax, args):
    ended = dmax(args.split())
    assert ended.status == 2
    assert not {"\x1b", "\x07"} & set(ended.out + ended.err)
    assert ended.err.startswith("error: ")


def test_the_names_of_runs_cannot_control_the_terminal(dmax, monkeypatch):
    comparison = SimpleNamespace(skipped=[Path(OSC)])
    monkeypatch.setattr("dmaxlit.evaluation.run_comparison.read_runs", lambda runs: comparison)
    monkeypatch.setattr("dmaxlit.evaluation.run_comparison.runs_table", lambda comparison: f"task {OSC}\n")
    ended = dmax("compare a b")
    assert ended.out == "task \\x1b]0;owned\\x07\n"
    assert ended.err == "\\x1b]0;owned\\x07: no figures of a run; skipped\n"


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
