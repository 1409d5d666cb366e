import pytest
import torch
from lightning.pytorch.cli import ReduceLROnPlateau
from torch.optim.lr_scheduler import LinearLR

from dmaxlit import UserError
from dmaxlit.training.configure_optimizers import configure_optimizers
from dmaxlit.training.lr_schedules import WarmupCosine


def never():
    raise AssertionError("this schedule needs no number of steps")


def test_a_schedule_is_advanced_each_step_unless_it_monitors_a_metric():
    named = [("w", torch.nn.Parameter(torch.ones(2)))]
    assert isinstance(configure_optimizers(named, torch.optim.SGD, None, never), torch.optim.SGD)
    settings = configure_optimizers(named, torch.optim.SGD, lambda optimizer: LinearLR(optimizer), never)
    assert settings["lr_scheduler"]["interval"] == "step"
    settings = configure_optimizers(
        named, torch.optim.SGD, lambda optimizer: ReduceLROnPlateau(optimizer, monitor="train/loss"), never
    )
    assert settings["lr_scheduler"]["interval"] == "epoch"
    assert settings["lr_scheduler"]["monitor"] == "train/loss"


def test_a_schedule_that_depends_on_the_length_of_the_run_receives_it():
    named = [("w", torch.nn.Parameter(torch.ones(2)))]
    settings = configure_optimizers(named, torch.optim.SGD, lambda optimizer: WarmupCosine(optimizer), lambda: 17)
    assert settings["lr_scheduler"]["scheduler"].total_steps == 17


def test_a_setting_that_an_optimiser_refuses_is_the_user_s_error():
    named = [("w", torch.nn.Parameter(torch.ones(2)))]
    with pytest.raises(UserError, match="optimizer: Invalid learning rate: -1"):
        configure_optimizers(named, lambda params: torch.optim.AdamW(params, lr=-1.0), None, never)
