import copy
import itertools
import math

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch.optim import lr_scheduler as schedules
from transformers import get_cosine_schedule_with_warmup

from dmaxlit import DMaxModule, UserError
from dmaxlit.training.configure_optimizers import configure_optimizers
from dmaxlit.training.lr_schedules import WarmupCosine
from tests.conftest import make_denoiser
from tests.data.streaming import streamed, write_shards
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


@pytest.mark.parametrize(("max_steps", "expected"), [(-1, 7), (6, 6)])
def test_it_counts_the_steps_of_epochs_with_accumulation_of_their_own(max_steps, expected):
    module = DMaxModule(make_denoiser(), optimizer=lambda p: torch.optim.SGD(p, lr=0.1), lr_scheduler=WarmupCosine)
    scheduler = GradientAccumulationScheduler({0: 4, 1: 2, 2: 1})  # of 4 batches: 1, 2 and 4 steps
    trainer = L.Trainer(**{**QUIET, "max_steps": max_steps, "max_epochs": 3}, callbacks=[scheduler])
    trainer.fit(module, loader())
    assert trainer.lr_scheduler_configs[0].scheduler.total_steps == trainer.global_step == expected


@pytest.mark.parametrize("limits", [{"max_steps": 3}, {"limit_train_batches": 3}])
def test_a_streamed_corpus_has_a_schedule_only_if_the_run_has_a_known_end(tmp_path, limits):
    def fit(**settings):
        data = streamed(write_shards(tmp_path / "c", [12, 3]))
        module = DMaxModule(make_denoiser(block_length=4), lr_scheduler=WarmupCosine)
        trainer = L.Trainer(**{**QUIET, "max_epochs": 1, **settings})
        trainer.fit(module, data)
        return trainer

    with pytest.raises(UserError, match=r"^lr_scheduler: expected a run whose end is known"):
        fit()
    assert fit(**limits).lr_scheduler_configs[0].scheduler.total_steps == 3


@pytest.mark.parametrize(("settings", "name"), [({"warmup": 1.0}, "warmup"), ({"total_steps": 0}, "total_steps")])
def test_settings_out_of_range_are_refused(settings, name):
    with pytest.raises(UserError, match=f"WarmupCosine.{name}: expected"):
        WarmupCosine(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0), **settings)


def test_a_restored_schedule_has_the_length_and_the_warmup_given_here():
    def schedule(warmup, total):
        return WarmupCosine(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0), warmup, total)

    restored = schedule(0.5, 100)
    restored.load_state_dict({**schedule(0.1, 20).state_dict(), "last_epoch": 5})
    assert (restored.warmup, restored.total_steps) == (0.5, 100)
    assert restored.get_last_lr() == pytest.approx([0.1])


@pytest.mark.parametrize("warmup", [0.0, 0.1])
@pytest.mark.parametrize("nested", [False, True])
def test_without_a_number_of_steps_the_first_one_is_refused(warmup, nested):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    schedule = WarmupCosine(optimizer, warmup)
    schedule = schedules.ChainedScheduler([schedule], optimizer) if nested else schedule
    optimizer.step()
    with pytest.raises(UserError, match=r"^WarmupCosine.total_steps: expected the number of optimiser steps, .*none"):
        schedule.step()


def test_a_run_without_end_is_refused():
    schedule = WarmupCosine(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0))
    with pytest.raises(UserError, match="expected a run whose end is known"):
        schedule.set_total_steps(math.inf)


def warmed_cosine(optimizer, length):
    rise, fall = schedules.LinearLR(optimizer, total_iters=3), schedules.CosineAnnealingLR(optimizer, length - 3)
    return schedules.SequentialLR(optimizer, [rise, fall], milestones=[3])


MAKERS = {
    "warmup_cosine": lambda optimizer, length: WarmupCosine(optimizer, 0.2),
    "warmup_cosine with total_steps": lambda optimizer, length: WarmupCosine(optimizer, 0.2, length),
    "cosine": lambda optimizer, length: schedules.CosineAnnealingLR(optimizer, length, eta_min=0.1),
    "one_cycle": lambda optimizer, length: schedules.OneCycleLR(optimizer, 1.5, total_steps=length),
    "linear": lambda optimizer, length: schedules.LinearLR(optimizer, 1.0, 0.1, total_iters=length),
    "polynomial": lambda optimizer, length: schedules.PolynomialLR(optimizer, total_iters=length, power=2.0),
    "constant": lambda optimizer, length: schedules.ConstantLR(optimizer, 0.5, total_iters=length),
    "multi_step": lambda optimizer, length: schedules.MultiStepLR(optimizer, [length // 2, length - 1]),
    "step": lambda optimizer, length: schedules.StepLR(optimizer, max(1, length // 3)),
    "function": lambda optimizer, length: get_cosine_schedule_with_warmup(optimizer, 2, length),
    "sequence": warmed_cosine,
    "exponential": lambda optimizer, length: schedules.ExponentialLR(optimizer, 0.9),
}


def configured(name, length):
    parameters = [("w", torch.nn.Parameter(torch.ones(1)))]
    settings = configure_optimizers(
        parameters,
        lambda named: torch.optim.AdamW([parameter for _, parameter in named], lr=2.0),
        lambda optimizer: MAKERS[name](optimizer, length),
        lambda: length,
    )
    return settings["optimizer"], settings["lr_scheduler"]["scheduler"]


def walk(optimizer, schedule, steps):
    out = []
    for _ in range(steps):
        group = optimizer.param_groups[0]
        out.append((group["lr"], group["betas"]))
        optimizer.step()
        schedule.step()
    return out


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(("done", "old", "new"), [(10, 10, 25), (4, 10, 25), (4, 10, 10), (10, 10, 11)])
def test_a_restored_schedule_goes_on_as_that_of_the_new_length(name, done, old, new):
    """The reference is a run that had the new length from its first step."""
    optimizer, schedule = configured(name, old)
    walk(optimizer, schedule, done)
    saved = copy.deepcopy((optimizer.state_dict(), schedule.state_dict()))
    straight = walk(*configured(name, new), new)
    resumed, restored = configured(name, new)
    resumed.load_state_dict(saved[0])
    restored.load_state_dict(saved[1])
    assert walk(resumed, restored, new - done) == straight[done:]


@pytest.mark.parametrize("name", ["warmup_cosine", "cosine", "one_cycle"])
def test_a_longer_run_never_climbs_back_to_the_peak(name):
    optimizer, schedule = configured(name, 10)
    walk(optimizer, schedule, 10)
    resumed, restored = configured(name, 30)
    resumed.load_state_dict(optimizer.state_dict())
    restored.load_state_dict(schedule.state_dict())
    rates = [rate for rate, _ in walk(resumed, restored, 20)]
    falling = [rate for rate, _ in walk(*configured(name, 30), 30)][10:]
    assert rates == pytest.approx(falling)
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates))


def test_past_its_end_it_stays_at_zero():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    schedule = WarmupCosine(optimizer, 0.1, 10)
    assert [schedule.factor(step) for step in (10, 11, 15, 20, 1000)] == [0.0] * 5


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (lambda optimizer: schedules.CosineAnnealingLR(optimizer, 10), "T_max"),
        (lambda optimizer: schedules.OneCycleLR(optimizer, 1.0, total_steps=10), "total_steps"),
    ],
)
def test_a_schedule_that_ends_before_the_run_is_refused(make, option):
    named = [("w", torch.nn.Parameter(torch.ones(1)))]

    def configure(steps):
        return configure_optimizers(named, lambda p: torch.optim.AdamW([w for _, w in p]), make, lambda: steps)

    with pytest.raises(UserError, match=f"^lr_scheduler.{option}: expected at least the 11 steps of the run, got 10$"):
        configure(11)
    assert configure(10)
    assert configure(math.inf)
