import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import dmaxlit
from dmaxlit.cli import renames


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
