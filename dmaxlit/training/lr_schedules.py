"""Learning-rate schedules that depend on the length of the run."""

import math
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR

from dmaxlit.checkpoints.run_state import accumulation_schedulers, micro_batches_of_step
from dmaxlit.errors import UserError

LENGTH_OPTIONS = ("T_max", "total_steps", "total_iters", "milestones", "step_size", "T_0", "epochs", "steps_per_epoch")
"""Options of schedules that count steps, which grow with the run."""


class WarmupCosine(LambdaLR):
    """Linear from 0 to the learning rate, then half a cosine down to 0, over all optimiser steps of the run.

    The same factors as transformers' ``get_cosine_schedule_with_warmup``, which needs the number of steps up front.

    Args:
        optimizer: The optimiser.
        warmup: Share of the steps used for warm-up, in [0, 1). DMax uses 0.03.
        total_steps: Number of optimiser steps. Default: that of the run, from its epochs, batches, devices and
            accumulation, as ``DMaxModule`` sets it for its ``lr_scheduler``. In a schedule of several, or in another
            module, it has to be given.

    Raises:
        UserError: If a setting is out of range; at the first step, if the number of steps is not known.
    """

    def __init__(self, optimizer: Optimizer, warmup: float = 0.03, total_steps: int | None = None) -> None:
        if not 0 <= warmup < 1:
            raise UserError(f"WarmupCosine.warmup: expected a share in [0, 1), got {warmup}")
        if total_steps is not None and total_steps < 1:
            raise UserError(f"WarmupCosine.total_steps: expected at least 1, got {total_steps}")
        self.warmup, self.total_steps = warmup, total_steps
        super().__init__(optimizer, self.factor)

    def set_total_steps(self, steps: int | float) -> None:
        """Set the number of optimiser steps, unless ``total_steps`` was given.

        Raises:
            UserError: If the run has no end.
        """
        if self.total_steps is not None:
            return
        if math.isinf(steps):
            ends = "max_steps, or max_epochs unless data is streamed"
            raise UserError(f"lr_scheduler: expected a run whose end is known ({ends}), or total_steps")
        self.total_steps = max(int(steps), 1)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the step; length and warm-up stay those of this run, and decide the learning rate from here on."""
        length, warmup = self.total_steps, self.warmup
        super().load_state_dict(state_dict)
        self.warmup = warmup
        if length is not None:
            self.total_steps = length
        _apply_factors(self)

    def factor(self, step: int) -> float:
        """Return the factor of the learning rate at an optimiser step, counted from 0."""
        if self.total_steps is None:
            if step > 0:
                raise UserError(
                    "WarmupCosine.total_steps: expected the number of optimiser steps, which only the lr_scheduler of "
                    "a DMaxModule is told, got none"
                )
            # At construction the run is not known.
            return 0.0 if self.warmup else 1.0
        rising = math.ceil(self.warmup * self.total_steps)
        if step < rising:
            return step / rising
        falling = (step - rising) / max(1, self.total_steps - rising)
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * min(falling, 1.0))))  # past the end a cosine would rise


def steps_of_run(trainer: L.Trainer) -> int | float:
    """Return the number of optimiser steps of a run; infinite if its end is not known.

    Lightning's own number is -1 where only the data ends the run and has no length, and takes the accumulation of the
    first epoch for that of all, which ``GradientAccumulationScheduler`` changes.

    Args:
        trainer: The trainer, when optimisers are configured.
    """
    steps, epochs, batches = trainer.estimated_stepping_batches, trainer.max_epochs, trainer.num_training_batches
    if steps < 0:
        return math.inf
    if not accumulation_schedulers(trainer) or epochs in (None, -1) or math.isinf(batches):
        return steps
    counted = sum(math.ceil(batches / micro_batches_of_step(trainer, epoch)) for epoch in range(max(epochs, 1)))
    return counted if trainer.max_steps == -1 else min(counted, trainer.max_steps)


def check_length(schedule: Any, total_steps: Callable[[], int | float]) -> None:
    """Refuse a schedule that ends before the run, where its learning rate would rise again or is not defined.

    Args:
        schedule: The schedule; only those of torch with such an end are checked.
        total_steps: Returns the number of optimiser steps of the run.

    Raises:
        UserError: If so.
    """
    ending = {CosineAnnealingLR: "T_max", OneCycleLR: "total_steps"}
    for kind, option in ending.items():
        if isinstance(schedule, kind) and not math.isinf(steps := total_steps()) and getattr(schedule, option) < steps:
            raise UserError(
                f"lr_scheduler.{option}: expected at least the {int(steps)} steps of the run, "
                f"got {getattr(schedule, option)}"
            )


def keep_options(schedule: Any, make: Callable[[Optimizer], Any]) -> None:
    """Let a schedule keep its own options of length when it is restored from a checkpoint of a shorter run.

    It then goes on as if it had had these options from the first step. Schedules restored with the options they were
    saved with are left as torch restores them, to the bit.

    Args:
        schedule: The schedule; its class is replaced by a subclass of it, so that its state stays that of torch.
        make: Creates the same schedule for another optimiser.
    """
    base = type(schedule)
    schedule.__class__ = type(base.__name__, (_KeepsOptions, base), {"make": staticmethod(make)})


class _KeepsOptions:
    """Restores the step of a schedule and, if its options have changed, the learning rates they give at that step."""

    make: Callable[[Optimizer], Any]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the schedule; to be called after its optimiser was restored."""
        own = _lengths(self)
        schedule: Any = self
        super().load_state_dict(state_dict)  # type: ignore[misc]
        if isinstance(schedule, LambdaLR):  # its functions are not saved: they are those of this run
            _apply_factors(schedule)
            return
        if own == _lengths(schedule):
            return
        optimizer, steps = schedule.optimizer, schedule.last_epoch
        stand_in = _stand_in(optimizer)
        fresh = type(self).make(stand_in)
        stand_in.step()  # torch warns of a schedule that is advanced before the optimiser
        try:
            for _ in range(steps):
                fresh.step()
        except ValueError as error:
            raise UserError(f"lr_scheduler: expected a length of at least {steps} steps, got less ({error})") from error
        super().load_state_dict(fresh.state_dict())  # type: ignore[misc]
        for group, replayed in zip(optimizer.param_groups, stand_in.param_groups, strict=True):
            for name, value in replayed.items():
                if name == "lr":
                    _set_rate(group, value)
                elif name in ("momentum", "betas"):
                    group[name] = value


def _apply_factors(schedule: LambdaLR) -> None:
    """Set the learning rates that the functions give at the current step."""
    factors = [function(schedule.last_epoch) for function in schedule.lr_lambdas]
    schedule._last_lr = [rate * factor for rate, factor in zip(schedule.base_lrs, factors, strict=True)]
    for group, rate in zip(schedule.optimizer.param_groups, schedule._last_lr, strict=True):
        _set_rate(group, rate)


def _lengths(schedule: Any) -> list[Any]:
    """Return the options of length of a schedule, and of those it consists of."""
    own: list[Any] = [getattr(schedule, name, None) for name in (*LENGTH_OPTIONS, "_milestones")]
    return own + [_lengths(inner) for inner in getattr(schedule, "_schedulers", ())]


def _stand_in(optimizer: Optimizer) -> Optimizer:
    """Return an optimiser with the same groups as at the start of the run, and one empty parameter in each."""
    groups = []
    for group in optimizer.param_groups:
        options = {name: value for name, value in group.items() if name not in ("params", "initial_lr")}
        options["lr"] = float(group.get("initial_lr", group["lr"]))
        groups.append({**options, "params": [torch.nn.Parameter(torch.empty(0))]})
    stand_in = SGD(groups, lr=1.0)
    stand_in.defaults = dict(optimizer.defaults)
    return stand_in


def _set_rate(group: dict[str, Any], rate: Any) -> None:
    if isinstance(group["lr"], torch.Tensor):  # of capturable optimisers, in place
        group["lr"].fill_(float(rate))
    else:
        group["lr"] = rate
