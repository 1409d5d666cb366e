import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import dmaxlit


def test_an_export_is_read_by_dmaxlit_and_by_transformers(dmax, tiny, tmp_path):
    ended = dmax(f"export --checkpoint {tiny} --output copy")
    assert ended.out == "copy\n"
    ours, theirs = dmaxlit.load("copy"), AutoModelForCausalLM.from_pretrained(tmp_path / "copy")
    for name, weight in theirs.state_dict().items():
        assert torch.equal(weight, ours.backbone.model.state_dict()[name])
    assert ours.task_name == "chain"
    assert AutoTokenizer.from_pretrained(tmp_path / "copy").mask_token_id == ours.special.mask_id


@pytest.mark.parametrize(
    ("flags", "refusal"),
    [
        ("--checkpoint gone.ckpt --output x", "checkpoint: expected a file, got 'gone.ckpt' (no such file)"),
        ("--checkpoint ./gone --output x", "pretrained: expected a model folder"),
        ("--output x", "the following arguments are required: checkpoint"),
        ("--checkpoint {tiny} --output full", "output: expected a new folder or one written by export, got 'full'"),
    ],
)
def test_bad_input_is_refused_in_one_line(dmax, tiny, tmp_path, flags, refusal):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").write_text("mine")
    assert dmax(f"export {flags.format(tiny=tiny)}").refusal.startswith(refusal)
    assert (tmp_path / "full" / "precious.txt").read_text() == "mine"
