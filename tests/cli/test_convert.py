import json

import pytest
import torch

from tests.backbone.formats.llada2_published import CONFIG, make_tensors, read_published, write_published


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return write_published(tmp_path_factory.mktemp("hub") / "LLaDA2.0-tiny")


def test_there_and_back(dmax, published, tmp_path):
    forth = dmax("convert", published, "ours")
    assert forth.out == f"ours: {published} as transformers\n"
    assert "converting: 100%" in forth.err
    back = dmax("convert ours back --to llada2 --max_shard_size 50KB")
    assert back.out == "back: ours as llada2\n"
    assert (back.status, forth.status) == (0, 0)
    tensors, _ = read_published(tmp_path / "back")
    assert all(torch.equal(tensors[name], tensor) for name, tensor in make_tensors().items())
    assert json.loads((tmp_path / "back" / "config.json").read_text()) == CONFIG
    assert dmax("generate --model ours --prompt x --max_new_tokens 16").status == 0


@pytest.mark.parametrize(
    ("flags", "refusal"),
    [
        ("", "the following arguments are required: source, dest"),
        ("./nowhere out", "pretrained: expected a model folder, a hub id or builtin:NAME, got './nowhere'"),
        ("builtin:chain-base out", "source: expected a model that came from LLaDA2-MoE, got a qwen3"),
        ("{published} {published}", "dest: expected a folder that does not exist yet, got"),
        ("{published} out --to gguf", "to: expected 'transformers', 'llada2' or null, got 'gguf'"),
        ("{published} out --to llada2", "to: expected the form that"),
        ("{published} out --max_shard_size lots", "max_shard_size: expected a size such as 5GB or 500MB, got 'lots'"),
    ],
)
def test_bad_input_is_refused_in_one_line(dmax, published, tmp_path, flags, refusal):
    assert dmax(f"convert {flags.format(published=published)}").refusal.startswith(refusal)
    assert list(tmp_path.iterdir()) == []
