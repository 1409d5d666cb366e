"""Times the updates of ``fit``, and the collectives in them."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.profiler import ProfilerActivity, profile

from dmaxlit.bench.process_figures import ProcessFigures
from dmaxlit.bench.start_line import wait_for_others
from dmaxlit.evaluation.evaluate import device_time
from dmaxlit.tokens import Role

__all__ = ["StepClock"]


class StepClock(L.Callback):
    """Times some updates after a warm-up; then looks, in some more, for how long collectives are under way.

    The second part is by torch's profiler, which slows updates down, and so is not timed.

    Args:
        folder: Where each process writes its figures.
        warm_up: Updates before the clock starts.
        updates: Updates that are timed.
        profiled: Updates that are profiled after them.
        number: Number of this run's first process among those that measure at the same time.
        total: How many these are, all ranks of all runs.
    """

    def __init__(self, folder: str, warm_up: int, updates: int, profiled: int, number: int = 0, total: int = 1) -> None:
        super().__init__()
        self._folder = Path(folder)
        self._starts, self._ends = warm_up, warm_up + updates
        self._last = self._ends + profiled
        self._number, self._total = number, total
        self._tokens: int | torch.Tensor = 0  # on the device, which is not waited for
        self._begin = self._cpu_begin = self._seconds = self._cpu_seconds = self._profile_begin = 0.0
        self._profiler: Any = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: dict[str, torch.Tensor], batch_idx: int
    ) -> None:
        """Start the clock after the warm-up, in all processes together."""
        if batch_idx == self._starts:
            wait_for_others(self._folder / "start", self._number + trainer.global_rank, self._total)
            self._begin, self._cpu_begin = device_time(pl_module.device), time.process_time()
        if self._starts <= batch_idx < self._ends:
            self._tokens += (batch["roles"] != Role.PAD).sum()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: dict[str, torch.Tensor],
        batch_idx: int,
    ) -> None:
        """Stop the clock and start the profiler, or stop that and write the figures."""
        if batch_idx + 1 == self._ends:
            self._seconds = device_time(pl_module.device) - self._begin
            self._cpu_seconds = time.process_time() - self._cpu_begin
            self._profiler = profile(activities=_activities(pl_module.device))
            self._profiler.start()
            self._profile_begin = device_time(pl_module.device)
        elif batch_idx + 1 == self._last:
            seconds = device_time(pl_module.device) - self._profile_begin
            self._profiler.stop()
            share = covered_seconds(collective_spans(self._profiler.events())) / seconds
            figures = ProcessFigures(self._seconds, self._cpu_seconds, int(self._tokens), in_collectives=share)
            figures.write(self._folder, self._number + trainer.global_rank)


def collective_spans(events: Iterable[Any]) -> list[tuple[float, float]]:
    """Return begin and end of each collective among a profiler's events, in seconds.

    Gloo reports from its own threads how long a collective takes, waiting for other processes included. Of NCCL the
    kernels are taken, which wait in the same way.
    """
    return [
        (event.time_range.start / 1e6, event.time_range.end / 1e6)
        for event in events
        if event.name.startswith("gloo:") or (event.device_type.name == "CUDA" and "nccl" in event.name.lower())
    ]


def covered_seconds(spans: Iterable[tuple[float, float]]) -> float:
    """Return the length of the union of spans of time."""
    covered, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        covered += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return covered


def _activities(device: torch.device) -> list[ProfilerActivity]:
    return [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
