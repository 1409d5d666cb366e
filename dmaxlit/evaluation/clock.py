"""The time spent decoding, without what happens to the answers meanwhile."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dmaxlit.evaluation.evaluate import device_time


class DecodeClock:
    """Measures wall-clock time; the device's work is waited for at both ends and at every pause.

    Args:
        device: Device of the model.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._begin: float | None = None
        self._seconds = 0.0

    @property
    def seconds(self) -> float:
        """The time measured so far, up to the last pause while it is running."""
        return self._seconds

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measure the time until the context ends."""
        self._begin = device_time(self._device)
        try:
            yield
        finally:
            self._stop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time until the context ends."""
        self._stop()
        try:
            yield
        finally:
            self._begin = device_time(self._device)

    def _stop(self) -> None:
        if self._begin is not None:
            self._seconds += device_time(self._device) - self._begin
            self._begin = None
