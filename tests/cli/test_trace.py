import re
import shutil
from pathlib import Path

import pytest

import dmaxlit
from dmaxlit.backbone.formats.hub import BUILTIN_MODELS
from dmaxlit.engine import Trace
from tests.engine.traces import hand_made


@pytest.fixture
def files(dmax, tiny):
    """Write a.safetensors and b.safetensors, traces of two prompts by two decoders."""
    for name, decoder in (("a", "spd"), ("b", "threshold")):
        line = f"generate --model {tiny} --max_new_tokens 10 --decoder {decoder} --trace_file {name}.safetensors"
        ended = dmax(line, "--prompt", "3 +1 ?", "--prompt", "2 *3 ?")
        assert ended.status == 0, ended.err


@pytest.mark.usefixtures("files")
def test_traces_become_a_page_side_by_side(dmax, tmp_path):
    ended = dmax("trace a.safetensors b.safetensors --output out/t.html")
    assert (ended.status, ended.out) == (0, "out/t.html: 2 prompts of a.safetensors, b.safetensors\n")
    text = (tmp_path / "out" / "t.html").read_text(encoding="utf-8")
    assert "<title>Trace: spd and threshold</title>" in text
    assert '"label":"spd"' in text
    assert '"label":"threshold"' in text
    assert '"prompt":"2 *3 ?"' in text
    assert dmax("trace a.safetensors a.safetensors --output t.html --rows 1").out.startswith("t.html: 1 prompt of")
    one = (tmp_path / "t.html").read_text(encoding="utf-8")
    assert "<title>Trace: a (spd) and a (spd)</title>" in one
    assert '"prompt":"3 +1 ?"' not in one


@pytest.mark.usefixtures("files")
def test_a_trace_without_texts_needs_a_tokenizer(dmax, tmp_path):
    trace = Trace.load(tmp_path / "a.safetensors")
    Trace(trace.rows).save(tmp_path / "old.safetensors")
    refusal = dmax("trace old.safetensors --output t.html").refusal
    assert refusal.startswith("old.safetensors: tokenizer: expected the tokenizer of a trace that holds no texts")
    assert not (tmp_path / "t.html").exists()
    assert dmax("trace old.safetensors --output t.html --tokenizer chain").status == 0
    assert "<title>Trace: old</title>" in (tmp_path / "t.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        ("trace a.safetensors", "the following arguments are required: output"),
        ("trace --output t.html", "the following arguments are required: traces"),
        ("trace gone --output t.html", "trace: cannot read 'gone'"),
        ("trace . --output t.html", "trace: cannot read '.'"),
        ("trace text.txt --output t.html", "trace: cannot read 'text.txt'"),
        ("trace a.safetensors --output .", "output: expected a file to write, got the folder '.'"),
        ("trace text.txt --output text.txt", "output: expected a file that ends in .html, got 'text.txt'"),
        ("trace a.html --output ./a.html", "output: expected another file than the traces, got './a.html'"),
        ("trace a.safetensors --output text.txt/t.html", "output: cannot write 'text.txt/t.html'"),
        ("trace a.safetensors --output t.html --rows 0 7", "a.safetensors: trace: expected the index of a prompt"),
        ("trace a.safetensors --output t.html --rows -1", "a.safetensors: trace: expected the index of a prompt"),
        ("trace a.safetensors --output t.html --rows x", "rows: expected int, got 'x'"),
        ("trace a.safetensors --output t.html --tokenizer gone/x", "tokenizer: expected a task name, folder or hub id"),
        ("trace empty --output t.html", "empty: trace: expected a record of at least one prompt, got none"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_one_line(dmax, tmp_path, monkeypatch, line, refusal):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # a hub out of reach is tried for a while
    (tmp_path / "text.txt").write_text("no trace")
    Trace().save(tmp_path / "empty")
    Trace({0: hand_made()}, texts=dict.fromkeys(range(9), "x")).save(tmp_path / "a.safetensors")
    assert dmax(line).refusal.startswith(refusal)
    assert not (tmp_path / "t.html").exists()


@pytest.mark.slow
def test_the_commands_of_the_guide_run_as_written(dmax, tmp_path):
    """All but the training, whose settings are parsed, and whose model the shipped one stands for."""
    guide = (Path(dmaxlit.__file__).parent / "viewer" / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    commands = re.findall(r"^python -m dmaxlit (.*)$", guide, re.MULTILINE)
    assert [command.partition(" ")[0] for command in commands] == (
        ["generate"] * 3 + ["trace", "fit"] + ["generate"] * 2 + ["trace"]
    )
    shutil.copytree(BUILTIN_MODELS / "chain-base", tmp_path / "runs" / "quickstart" / "model")
    for command in commands:
        if command.startswith("fit "):
            command = command.replace("configs/quickstart.yaml", "builtin:quickstart") + " --print_config"
        ended = dmax(command.replace("--num_prompts 4", "--num_prompts 1"))  # for speed
        assert ended.status == 0, ended.err
    assert (tmp_path / "spd.html").exists()
    assert '"label":"threshold threshold=0.5"' in (tmp_path / "both.html").read_text(encoding="utf-8")
