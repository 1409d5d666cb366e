import json
import shlex
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import dmaxlit
from dmaxlit.cli import renames
from dmaxlit.engine import Trace
from dmaxlit.errors import DMaxWarning


def test_an_export_is_read_by_dmaxlit_and_by_transformers(dmax, tiny, tmp_path):
    ended = dmax(f"export --model {tiny} --output copy")
    assert ended.out == "copy\n"
    ours, theirs = dmaxlit.load("copy"), AutoModelForCausalLM.from_pretrained(tmp_path / "copy")
    for name, weight in theirs.state_dict().items():
        assert torch.equal(weight, ours.backbone.model.state_dict()[name])
    assert ours.task_name == "chain"
    assert AutoTokenizer.from_pretrained(tmp_path / "copy").mask_token_id == ours.special.mask_id


def test_the_old_name_of_its_flag_is_read_for_this_release(dmax, tiny, caplog):
    renames.announce.cache_clear()
    assert dmax(f"export --checkpoint {tiny} --output one").out == "one\n"
    assert dmax(f"export --checkpoint={tiny} --output two").out == "two\n"
    messages = [record.message for record in caplog.records if "is now" in record.message]
    assert messages == ["--checkpoint is now --model; the old name is read for this release only"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_weights_can_be_written_in_another_type(dmax, tiny, tmp_path, dtype):
    assert dmax(f"export --model {tiny} --output copy --dtype {dtype}").status == 0
    expected = getattr(torch, dtype)
    weights = load_file(tmp_path / "copy" / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {expected}
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "copy").dtype == expected


def results(**more):
    row = {"model": "trained", "label": "spd 0", "num_examples": 4, "accuracy": 0.5, "tpf": 3.0}
    row |= {"accuracy_low": 0.15, "accuracy_high": 0.85}
    return {
        "rows": [row, {**row, "model": "base"}],
        "task": {"name": "chain"},
        "command": "python -m dmaxlit fit",
    } | more


def test_decoder_and_figures_go_with_the_export_and_generate_uses_them(dmax, tiny, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(results()))
    flags = "--decoder edit --decoder.tau_edit 0.0 --results results.json"
    assert dmax(f"export --model {tiny} --output copy {flags}").out == "copy\n"
    assert dmaxlit.load("copy").decoding == {"decoder": "edit", "options": {"tau_edit": 0.0}}
    card = (tmp_path / "copy" / "README.md").read_text()
    assert card.count("| spd 0 | 4 | 50.0 [15.0, 85.0] | 3.00 |") == 1
    assert "made by `python -m dmaxlit fit`" in card
    assert (tmp_path / "copy" / "sglang.yaml").read_text().startswith("# --dllm-algorithm JointThreshold\n")
    prompt = "generate --model {} --prompt '3 +1 ?' --max_new_tokens 16 --trace_file t.safetensors"
    assert dmax(prompt.format("copy")).status == 0
    assert Trace.load("t.safetensors").label == "edit tau_edit=0.0"
    assert dmax(f"{prompt.format('copy')} --decoder threshold").status == 0
    assert Trace.load("t.safetensors").label == "threshold"


def test_figures_that_are_kept_with_rounded_weights_are_warned_of(dmax, tiny, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(results()))
    assert dmax(f"export --model {tiny} --output judged --results results.json").status == 0
    with pytest.warns(DMaxWarning, match="'judged' has figures of its own weights, the export has them rounded to bf"):
        assert dmax("export --model judged --output half --dtype bfloat16").status == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error", DMaxWarning)
        assert dmax("export --model half --output again --dtype bfloat16").status == 0  # rounds nothing
        assert dmax("export --model judged --output same").status == 0


@pytest.fixture
def evaluated(dmax, tiny):
    """The folder of an evaluation of the tiny model, of two tasks."""
    tasks = [{"name": "chain", "label": label, "options": {"operations": 3}} for label in ("one", "two")]
    Path("tasks.yaml").write_text(json.dumps(tasks))
    line = "--tasks tasks.yaml --num_prompts 2 --max_new_tokens 8 --split val --output eval"
    ended = dmax(f"evaluate --model {tiny} {line}")
    assert ended.status == 0, ended.err
    return Path("eval")


def test_the_figures_of_an_evaluation_go_on_the_card_of_its_model_only(dmax, tiny, evaluated):
    record = json.loads((evaluated / "record.json").read_text())
    record["command"] = "python -m dmaxlit evaluate --tasks tasks.yaml"  # the tests' own is no command of dmaxlit
    record["baselines"] = [{"title": "autoregressive"}]
    record["results"].append({**record["results"][0], "title": "autoregressive"})
    (evaluated / "record.json").write_text(json.dumps(record))
    assert dmax(f"export --model {tiny} --output copy --results eval").status == 0
    card = Path("copy/README.md").read_text()
    assert "On validation prompts of `one, two`, made by `python -m dmaxlit evaluate --tasks tasks.yaml`:" in card
    cells = [line.split(" | ") for line in card.splitlines() if line.startswith("| ")][1:]
    titles = ["one: one_token", "one: spd", "two: one_token", "two: spd"]
    assert [cell[0].removeprefix("| ") for cell in cells] == titles
    assert [cell[3].rstrip(" |") for cell in cells] == [f"{r['tpf']['dmaxlit']:.2f}" for r in record["results"][:4]]
    assert dmaxlit.load("copy").figures["rows"][1]["num_examples"] == 2
    other = dmax("export --model builtin:chain-base --output other --results eval/record.json")
    assert other.refusal == (
        "results: expected figures of the exported model, got those of other weights in 'eval/record.json'"
    )
    with pytest.warns(DMaxWarning, match="has figures of weights in float32, the export has bfloat16: whether they"):
        assert dmax(f"export --model {tiny} --output half --results eval --dtype bfloat16").status == 0
    assert not Path("other").exists()


def test_push_to_hub_uploads_what_was_written(dmax, tiny, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "dmaxlit.backbone.formats.hub_upload.upload", lambda *arguments: calls.append(arguments) or "https://hub/u/m"
    )
    ended = dmax(f"export --model {tiny} --output copy --push_to_hub u/m --private true")
    assert ended.out == "copy\nhttps://hub/u/m\n"
    assert calls == [(Path("copy"), "u/m", True)]


@pytest.mark.parametrize(
    ("flags", "refusal"),
    [
        ("--decoder_options {tau_dec: 1.0}", "decoder_options: expected --decoder with them"),
        ("--decoder fast", "unknown decoder 'fast'; known: "),
        ("--decoder spd --decoder.tau 1", "decoder 'spd': unknown option tau"),
        ("--results gone.json", "gone.json: cannot be read"),
        (
            "--results other.json",
            "results: expected the results.json of a run or the record.json of an evaluation, got",
        ),
        ("--results other", "results: expected the results.json of a run or the record.json of an evaluation, got"),
        ("--results .", "results: expected a folder with results.json or record.json, got '.'"),
        ("--results empty.json", "results: expected figures of a trained model, got none in 'empty.json'"),
        ("--push_to_hub model", "push_to_hub: expected USER/NAME, got 'model'"),
        ("--private true", "private: expected --push_to_hub with it"),
    ],
)
def test_what_an_export_cannot_say_is_refused_in_one_line_and_nothing_is_written(dmax, tiny, tmp_path, flags, refusal):
    (tmp_path / "other.json").write_text('{"rows": [{"label": 1}]}')
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "record.json").write_text('{"format": "dmaxlit-evaluation-1", "tasks": {}}')
    (tmp_path / "empty.json").write_text(json.dumps(results(rows=[])))
    arguments = [
        "export",
        "--model",
        str(tiny),
        "--output",
        "copy",
        *shlex.split(flags.replace("{", "'{").replace("}", "}'")),
    ]
    assert dmax(arguments).refusal.startswith(refusal)
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    ("output", "refusal"),
    [
        (".", "output: expected a folder that can be replaced, got '.', which is the current one or holds it"),
        ("full", "output: expected a new folder or one written by export, got 'full'"),
    ],
)
def test_a_folder_that_would_not_be_replaced_is_refused_before_the_model_is_loaded(dmax, tmp_path, output, refusal):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").write_text("mine")
    assert dmax(f"export --model gone.ckpt --output {output}").refusal == refusal


@pytest.mark.parametrize(
    ("flags", "refusal"),
    [
        ("--model gone.ckpt --output x", "model: expected a file, got 'gone.ckpt' (no such file)"),
        ("--model ./gone --output x", "model: expected a model folder"),
        ("--output x", "the following arguments are required: model"),
        ("--model {tiny} --output full", "output: expected a new folder or one written by export, got 'full'"),
    ],
)
def test_bad_input_is_refused_in_one_line(dmax, tiny, tmp_path, flags, refusal):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").write_text("mine")
    assert dmax(f"export {flags.format(tiny=tiny)}").refusal.startswith(refusal)
    assert (tmp_path / "full" / "precious.txt").read_text() == "mine"


@pytest.mark.parametrize("output", ["''", ".", "/"])
def test_the_current_folder_is_not_replaced_even_if_it_is_empty(dmax, tiny, tmp_path, output):
    refusal = dmax(f"export --model {tiny} --output {output}").refusal
    assert refusal.startswith("output: expected a folder that can be replaced, got ")
    assert list(tmp_path.iterdir()) == []
