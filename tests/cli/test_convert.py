import json

import pytest
import torch

from dmaxlit.cli import renames
from tests.backbone.formats.llada2_published import CONFIG, make_tensors, read_published, write_published


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return write_published(tmp_path_factory.mktemp("hub") / "LLaDA2.0-tiny")


def test_there_and_back(dmax, published, tmp_path):
    forth = dmax(["convert", "--model", str(published), "--output", "ours"])
    assert forth.out == f"ours: {published} as transformers\n"
    assert "converting: 100%" in forth.err
    back = dmax("convert --model ours --output back --to llada2 --max_shard_size 50KB")
    assert back.out == "back: ours as llada2\n"
    assert (back.status, forth.status) == (0, 0)
    tensors, _ = read_published(tmp_path / "back")
    assert all(torch.equal(tensors[name], tensor) for name, tensor in make_tensors().items())
    assert json.loads((tmp_path / "back" / "config.json").read_text()) == CONFIG
    assert dmax("generate --model ours --prompt x --max_new_tokens 16").status == 0


@pytest.mark.parametrize(
    ("flags", "refusal"),
    [
        ("", "the following arguments are required: model"),
        ("--model ./nowhere", "the following arguments are required: output"),
        (
            "--model ./nowhere --output out",
            "model: expected a model folder, a hub id or builtin:NAME",
        ),
        ("--model gone.ckpt --output out", "model: expected a file, got 'gone.ckpt'"),
        ("{model} --like ./nowhere", "like: expected a model folder, a hub id or builtin:NAME"),
        ("--model builtin:chain-base --output out", "model: expected a model that came from LLaDA2-MoE, got a qwen3"),
        ("--model {published} --output {published}", "output: expected a folder that does not exist yet, got"),
        ("{model} --to gguf", "to: expected 'transformers', 'llada2' or null, got 'gguf'"),
        ("{model} --to llada2", "to: expected the form that"),
        ("{model} --max_shard_size lots", "max_shard_size: expected a size such as 5GB or 500MB, got 'lots'"),
    ],
)
def test_bad_input_is_refused_in_one_line(dmax, published, tmp_path, flags, refusal):
    flags = flags.format(published=published, model=f"--model {published} --output out")
    assert dmax(f"convert {flags}").refusal.startswith(refusal)
    assert list(tmp_path.iterdir()) == []


def test_model_and_output_without_their_flags_are_read_for_this_release(dmax, published, tmp_path, caplog):
    renames.announce.cache_clear()
    assert dmax("convert", published, "ours").out == f"ours: {published} as transformers\n"
    assert [record.message for record in caplog.records if "is now" in record.message] == [
        f"the argument '{published}' of convert is now --model {published}; the old name is read for this release only",
        "the argument 'ours' of convert is now --output ours; the old name is read for this release only",
    ]
    assert dmax("convert a b --model c").refusal == "model: expected one, got 'c' and 'a'"
