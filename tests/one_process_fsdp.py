"""Training by FSDP2 in this process alone, whose group a test has to leave: fixture ``no_group_is_left``."""

import lightning as L
import torch

from dmaxlit.training.fsdp import FSDP2Strategy
from tests.test_module import QUIET, loader


def fit(module, **trainer):
    built = L.Trainer(**{**QUIET, "max_steps": 2, "strategy": FSDP2Strategy(), "devices": 1, **trainer})
    built.fit(module, loader())
    return built


def assert_same(one, two, atol=2e-6):
    assert set(one) == set(two)
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=atol, rtol=1e-4)
