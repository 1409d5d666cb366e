"""The optimiser and learning-rate schedule of a run, as Lightning's ``configure_optimizers`` returns them."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer, SparseAdam

from dmaxlit.errors import UserError, reason_of
from dmaxlit.training.lr_schedules import check_length, keep_options


def configure_optimizers(
    parameters: Iterable[tuple[str, Tensor]],
    optimizer: Callable[[Any], Optimizer],
    lr_scheduler: Callable[[Optimizer], Any] | None,
    total_steps: Callable[[], int | float],
) -> Any:
    """Create the optimiser and the schedule.

    The schedule is advanced each optimiser step, or each epoch if it has a ``monitor``, like Lightning's
    ``ReduceLROnPlateau``. Restored from a checkpoint of a shorter run, it goes on with the options given here.

    Args:
        parameters: ``module.named_parameters()``.
        optimizer: Creates the optimiser from the parameters.
        lr_scheduler: Creates the schedule from the optimiser; None for a constant learning rate.
        total_steps: Returns the number of optimiser steps of the run; called for schedules that need it.

    Returns:
        The optimiser, or Lightning's dictionary of optimiser and schedule.

    Raises:
        UserError: If either refuses a setting, or the schedule ends before the run.
    """
    try:
        instance = optimizer(parameters)
        schedule = None if lr_scheduler is None else lr_scheduler(instance)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise UserError(f"optimizer: {reason_of(error)}") from error
    if isinstance(instance, SparseAdam):
        raise UserError("optimizer: expected one for dense gradients, got SparseAdam")
    if schedule is None or lr_scheduler is None:
        return instance
    if hasattr(schedule, "set_total_steps"):
        schedule.set_total_steps(total_steps())
    monitor = getattr(schedule, "monitor", None)
    if monitor is None:
        check_length(schedule, total_steps)
        keep_options(schedule, lr_scheduler)
    timing = {"interval": "step"} if monitor is None else {"interval": "epoch", "monitor": monitor}
    return {"optimizer": instance, "lr_scheduler": {"scheduler": schedule, **timing}}
