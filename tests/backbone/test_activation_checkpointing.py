"""Gradient checkpointing with the cache of the clean copy: equal to the last bit, with far less memory."""

import logging

import pytest
import torch

from dmaxlit import DMaxModule
from dmaxlit.backbone import Denoiser, TrainingForward
from dmaxlit.backbone.activation_checkpointing import (
    can_checkpoint_with_cache,
    enable_activation_checkpointing,
    supports_cache_under_checkpointing,
)
from dmaxlit.noise import NOISE
from dmaxlit.randomness import RowGenerator
from dmaxlit.training.activation_memory import saved_bytes
from tests.backbone.formats.llada2_published import write_published
from tests.backbone.test_families import EAGER, FAMILIES, checkpoint
from tests.conftest import make_batch, make_denoiser


@pytest.fixture
def clean():
    return make_batch((3, 10, 0, 8), (40, 14, 64, 33))


def step(module, clean):
    losses = module.view_losses(clean, RowGenerator(0, list(range(len(clean.ids)))))
    total = torch.stack([loss.total for loss in losses]).sum()
    total.backward()
    return [total.detach(), *(parameter.grad for parameter in module.parameters())]


def assert_same(one, two):
    for a, b in zip(one, two, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.equal(a, b)


@pytest.mark.parametrize("noise", list(NOISE))
def test_loss_and_gradients_of_every_strategy_are_the_same_to_the_bit(noise, clean):
    plain, again = (DMaxModule(make_denoiser(sharpen=3.0, recompute=flag), noise) for flag in (False, True))
    assert can_checkpoint_with_cache(again.backbone.model)
    assert TrainingForward(again.backbone, clean).is_cached
    assert_same(step(plain, clean), step(again, clean))


@pytest.mark.parametrize("family", [*FAMILIES, "llada2"])
def test_every_family_can(family, tmp_path, caplog):
    if family == "llada2":
        write_published(tmp_path / "m")
        source = str(tmp_path / "m")
    else:
        source = checkpoint(tmp_path / "m", **FAMILIES[family])
    attention = "eager" if family in EAGER else "sdpa"

    def module(flag):
        denoiser = Denoiser(source, block_length=8, attn_implementation=attention, gradient_checkpointing=flag)
        return DMaxModule(denoiser, seed=0)

    plain, again = module(False), module(True)
    clean = make_batch(special=plain.special)
    with caplog.at_level(logging.WARNING, "transformers"):
        assert_same(step(plain, clean), step(again, clean))
    assert not caplog.records, "transformers warns when it takes a cache away"


def test_less_is_kept(clean):
    def memory(**how):
        module = DMaxModule(make_denoiser(num_hidden_layers=4, **how))
        losses = lambda: module.view_losses(clean, RowGenerator(0, list(range(len(clean.ids)))))  # noqa: E731
        return saved_bytes(lambda: torch.stack([loss.total for loss in losses()]).sum(), module.parameters())

    assert memory(recompute=True) < 0.5 * memory()


def test_a_model_that_withholds_the_cache_itself_takes_the_doubled_path(clean):
    gpt2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128}

    def module(flag):
        torch.manual_seed(0)
        denoiser = Denoiser(config=gpt2, tokenizer="chain", block_length=8, gradient_checkpointing=flag)
        for part in denoiser.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        return DMaxModule(denoiser, "masked", seed=0)

    plain, again = module(False), module(True)
    for one, two in zip(step(plain, clean), step(again, clean), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
    assert not can_checkpoint_with_cache(again.backbone.model), "it is remembered"
    assert not TrainingForward(again.backbone, clean).is_cached


def test_layers_without_the_mark_are_left_to_transformers(monkeypatch):
    monkeypatch.setattr("dmaxlit.backbone.transformers_internals._CACHE_MARK", "_mark_of_another_version")
    denoiser = make_denoiser()
    enable_activation_checkpointing(denoiser.model)
    assert denoiser.model.is_gradient_checkpointing
    assert not supports_cache_under_checkpointing(denoiser.model)
    assert not can_checkpoint_with_cache(denoiser.model)
