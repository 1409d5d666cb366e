"""When a checkpoint is due: after some steps, or after some time that bounds what checkpoints cost."""

import time

from dmaxlit.errors import UserError, check_at_least

_MAX_TIME_FRACTION = 0.05  # of the run's time that timed checkpoints may take


class SaveTimes:
    """The intervals between checkpoints.

    Args:
        every_minutes: Time between them, at least 0; longer if writing them would take more than a twentieth of it.
            None: not by time.
        every_n_steps: Optimiser steps between them, at least 1. None: not by steps.

    Raises:
        UserError: If a setting is out of range.
    """

    def __init__(self, every_minutes: float | None, every_n_steps: int | None) -> None:
        check_at_least(1, every_n_steps=every_n_steps)
        if every_minutes is not None and not every_minutes >= 0:
            raise UserError(f"every_minutes: expected at least 0, got {every_minutes}")
        self.every_minutes, self.every_n_steps = every_minutes, every_n_steps
        self._since = self._cost = 0.0

    def begin(self, cost: float = 0.0) -> None:
        """Count the time from here on.

        Args:
            cost: Seconds that writing the last checkpoint has taken.
        """
        self._since, self._cost = time.monotonic(), cost

    def is_due(self, step: int, is_writing: bool = False) -> bool:
        """Return whether a checkpoint is due after optimiser step ``step``, counted from 1.

        Args:
            step: The step.
            is_writing: Whether the one before is still being written; one by time waits for it.
        """
        by_steps = self.every_n_steps is not None and step % self.every_n_steps == 0
        if by_steps or self.every_minutes is None or is_writing:
            return by_steps
        return time.monotonic() - self._since >= max(60 * self.every_minutes, self._cost / _MAX_TIME_FRACTION)
