import time

import pytest
import torch

from dmaxlit.bench.model_work import linear_operations, share_outside
from tests.engine.models import lively_denoiser


def forward(denoiser):
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        denoiser.logits(denoiser.hidden(torch.ones(1, 4, 4, dtype=torch.bool), ids, inputs_embeds=denoiser.embed(ids)))


def busy(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_what_is_not_the_model_counts_as_outside():
    denoiser = lively_denoiser()
    model = denoiser.model.base_model
    real = model.forward
    model.forward = slow = lambda *args, **kwargs: (busy(0.03), real(*args, **kwargs))[1]
    share = share_outside(denoiser, lambda: (busy(0.03), forward(denoiser)))
    assert share == pytest.approx(0.5, abs=0.15)
    assert model.forward is slow


def test_operations_are_two_for_each_weight_and_token():
    denoiser = lively_denoiser()
    weights = sum(
        module.weight.numel() for module in denoiser.model.modules() if isinstance(module, torch.nn.Linear)
    )  # those of the head among them
    assert linear_operations(denoiser, lambda: forward(denoiser)) == 2 * 4 * weights
    assert linear_operations(denoiser, lambda: None) == 0
