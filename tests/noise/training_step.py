"""One step of training, by each way of computing it."""

import torch

from dmaxlit import DMaxModule
from dmaxlit.backbone.lora import LoraSettings
from dmaxlit.randomness import RowGenerator
from tests.conftest import make_batch, make_denoiser

KINDS = {
    "full": {},
    "lora": {"lora": LoraSettings(r=2)},
    "recompute": {},
    "offloaded": {"frozen_copy": "offloaded"},
    "doubled": {"clean_half": "doubled"},
}


def check_gradients(strategy, kind):
    """Fail unless a step with a strategy has finite gradients, which are not all zero."""
    denoiser = make_denoiser(sharpen=5.0, recompute=kind == "recompute")
    module = DMaxModule(denoiser, strategy, **KINDS[kind])
    losses = module.view_losses(make_batch(special=module.special), RowGenerator(0, [0, 1, 2]))
    torch.stack([loss.total for loss in losses]).sum().backward()
    gradients = [p.grad for p in module.parameters() if p.requires_grad and p.grad is not None]
    assert any(gradient.abs().max() > 0 for gradient in gradients)
    assert all(gradient.isfinite().all() for gradient in gradients)
