import math

import lightning as L
import pytest
import torch
from transformers import get_cosine_schedule_with_warmup

from dmaxlit import DMaxModule, UserError
from dmaxlit.training.lr_schedules import WarmupCosine
from tests.conftest import make_denoiser
from tests.test_module import QUIET, loader


def rates(make, steps):
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=2.0)
    schedule = make(optimizer)
    out = []
    for _ in range(steps):
        out.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return out


@pytest.mark.parametrize(("warmup", "total"), [(0.03, 200), (0.1, 37), (0.0, 20), (0.5, 3), (0.03, 1)])
def test_the_factors_are_those_of_transformers(warmup, total):
    def theirs(optimizer):
        return get_cosine_schedule_with_warmup(optimizer, math.ceil(warmup * total), total)

    def told_later(optimizer):
        schedule = WarmupCosine(optimizer, warmup)
        schedule.set_total_steps(total)
        return schedule

    expected = rates(theirs, total)
    assert rates(lambda optimizer: WarmupCosine(optimizer, warmup, total), total) == pytest.approx(expected)
    assert rates(told_later, total) == pytest.approx(expected)


def test_it_hears_from_the_trainer_how_long_the_run_is():
    def trained(schedule):
        torch.manual_seed(0)
        module = DMaxModule(make_denoiser(), optimizer=lambda p: torch.optim.AdamW(p, lr=1e-3), lr_scheduler=schedule)
        trainer = L.Trainer(**{**QUIET, "max_steps": -1, "max_epochs": 2, "accumulate_grad_batches": 2})
        trainer.fit(module, loader())
        return trainer, module

    trainer, module = trained(WarmupCosine)
    schedule = trainer.lr_scheduler_configs[0].scheduler
    assert schedule.total_steps == trainer.global_step
    _, same = trained(lambda optimizer: WarmupCosine(optimizer, total_steps=trainer.global_step))
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), same.parameters(), strict=True))


@pytest.mark.parametrize(("settings", "name"), [({"warmup": 1.0}, "warmup"), ({"total_steps": 0}, "total_steps")])
def test_settings_out_of_range_are_refused(settings, name):
    with pytest.raises(UserError, match=f"WarmupCosine.{name}: expected"):
        WarmupCosine(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0), **settings)


def test_a_run_without_end_is_refused():
    schedule = WarmupCosine(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0))
    with pytest.raises(UserError, match="expected a run with an end"):
        schedule.set_total_steps(math.inf)
