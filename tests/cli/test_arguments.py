"""Loading a model for a command: each mistake is blamed on its own argument."""

import pytest
import torch

import dmaxlit.loading
from dmaxlit import UserError
from dmaxlit.cli.arguments import load_model

BASE = "builtin:chain-base"


@pytest.mark.parametrize("device", ["meta", "cuda:77", "nonsense"])
def test_a_device_that_cannot_compute_is_refused(device):
    with pytest.raises(UserError, match=f"device: expected one that torch can compute on, got '{device}' ") as caught:
        load_model(BASE, device)
    assert "\n" not in str(caught.value)


def failing(monkeypatch, error):
    def load(path, **options):
        raise error

    monkeypatch.setattr(dmaxlit.loading, "load", load)


def test_too_little_memory_names_the_device(monkeypatch):
    failing(monkeypatch, torch.OutOfMemoryError("tried to allocate\nmuch"))
    with pytest.raises(UserError, match=f"device: expected cpu to have memory for '{BASE}' in bfloat16, got too"):
        load_model(BASE, "cpu", "bfloat16")


def test_another_fault_is_not_blamed_on_the_device(monkeypatch):
    failing(monkeypatch, RuntimeError("a fault of ours"))
    with pytest.raises(RuntimeError, match="a fault of ours"):
        load_model(BASE, "cpu")


@pytest.mark.parametrize(
    "command",
    [
        "generate --prompt 3 --max_new_tokens 4",
        "distill --num_prompts 1 --keep all --max_new_tokens 4 --output c.jsonl",
        "export --output exported",
    ],
)
def test_the_probe_of_a_model_is_skipped_by_name(dmax, tiny, monkeypatch, command):
    def refuse(denoiser):
        raise UserError("no denoiser")

    monkeypatch.setattr("dmaxlit.backbone.denoiser.check_behavior", refuse)
    assert dmax(f"{command} --model {tiny}").refusal == "no denoiser"
    assert dmax(f"{command} --model {tiny} --probe false").status == 0
