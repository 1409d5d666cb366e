import json

import pytest
import torch

from dmaxlit import UserError
from dmaxlit.checkpoints.schema import check_checkpoint


def checkpoint():
    """Return a checkpoint with the fewest fields from which a model can be made."""
    texts = {"config": json.dumps({"model_type": "qwen3"}), "metadata": json.dumps({"block_length": 8}), "lora": None}
    return {
        "dmaxlit": {**texts, "tokenizer": {"tokenizer.json": "{}"}},
        "state_dict": {"weight": torch.zeros(1)},
    }


def change(content, path, value):
    """Set a field, named with dots; remove it if the value is None."""
    *parents, last = path.split(".")
    for name in parents:
        content = content[name]
    if value is None:
        del content[last]
    else:
        content[last] = value


def test_a_whole_checkpoint_passes():
    content = checkpoint()
    assert check_checkpoint(content, "a.ckpt") is content


@pytest.mark.parametrize("content", [[1], {}, {"dmaxlit": {}}, {"dmaxlit": [], "state_dict": {}}])
def test_what_is_none_of_ours_is_refused(content):
    with pytest.raises(UserError, match=r"checkpoint: expected one written by dmaxlit, got 'a.ckpt'"):
        check_checkpoint(content, "a.ckpt")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dmaxlit.config", None),
        ("dmaxlit.config", "{"),
        ("dmaxlit.config", "[1]"),
        ("dmaxlit.config", "{}"),
        ("dmaxlit.config", "[" * 100_000),
        ("dmaxlit.metadata", None),
        ("dmaxlit.metadata", json.dumps({"block_length": "x"})),
        ("dmaxlit.lora", "no"),
        ("dmaxlit.generation_config", "[1]"),
        ("dmaxlit.tokenizer", None),
        ("dmaxlit.tokenizer", {"tokenizer.json": 1}),
        ("state_dict", [1]),
        ("state_dict", {"weight": 1}),
    ],
)
def test_a_field_from_which_no_model_can_be_made_is_refused_by_name(field, value):
    content = checkpoint()
    change(content, field, value)
    with pytest.raises(UserError) as caught:
        check_checkpoint(content, "a.ckpt")
    assert str(caught.value).startswith(f"checkpoint: a.ckpt: {field}: expected ") or "block_length" in str(
        caught.value
    )
    assert len(str(caught.value)) < 300
