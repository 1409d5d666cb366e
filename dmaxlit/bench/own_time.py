"""The time that benchmarks of speed measure."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dmaxlit.evaluation.evaluate import device_time


def own_time(device: torch.device | str) -> float:
    """Return the time in seconds, once the device has finished its work.

    With one thread on a CPU it is the process's own, which other work on the machine disturbs less.
    """
    device = torch.device(device)
    return time.process_time() if device.type == "cpu" and torch.get_num_threads() == 1 else device_time(device)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one CPU thread, so that times on a CPU are the process's own."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
