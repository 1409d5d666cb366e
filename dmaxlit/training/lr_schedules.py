"""Learning-rate schedules that depend on the length of the run."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from dmaxlit.errors import UserError


class WarmupCosine(LambdaLR):
    """Linear from 0 to the learning rate, then half a cosine down to 0, over all optimiser steps of the run.

    The same factors as transformers' ``get_cosine_schedule_with_warmup``, which needs the number of steps up front.

    Args:
        optimizer: The optimiser.
        warmup: Share of the steps used for warm-up, in [0, 1). DMax uses 0.03.
        total_steps: Number of optimiser steps. Default: that of the run, from its epochs, batches, devices and
            accumulation.

    Raises:
        UserError: If a setting is out of range.
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
            raise UserError("lr_scheduler: expected a run with an end (max_steps or max_epochs), or total_steps")
        self.total_steps = max(int(steps), 1)

    def factor(self, step: int) -> float:
        """Return the factor of the learning rate at an optimiser step, counted from 0."""
        if self.total_steps is None:  # called once at construction, before the run is known
            return 0.0 if self.warmup else 1.0
        rising = math.ceil(self.warmup * self.total_steps)
        if step < rising:
            return step / rising
        falling = (step - rising) / max(1, self.total_steps - rising)
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * falling)))
