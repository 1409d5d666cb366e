"""What the benchmarks of speed share: a process for each measurement, clock and memory, and the files they write."""

import resource
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from dmaxlit.bench.files import write_results
from dmaxlit.bench.machine import alone, describe
from dmaxlit.errors import UserError

__all__ = ["SpeedBench"]


class SpeedBench(ABC):
    """A dataclass of settings whose measurements each run in a process of their own."""

    output: Path
    hidden_size: int
    device: str

    @abstractmethod
    def jobs(self) -> Sequence[tuple[Any, ...]]:
        """Arguments of :meth:`measure` for each measurement."""

    @abstractmethod
    def measure(self, *job: Any) -> Any:
        """Take one measurement in this process; a dataclass."""

    @abstractmethod
    def table(self, measurements: Sequence[Any]) -> str:
        """All of them as a markdown table."""

    def run(self) -> str:
        """Measure, write ``results.json`` and ``table.md``, and return the table."""
        self.output.mkdir(parents=True, exist_ok=True)
        done = [alone(self.measure, *job) for job in tqdm(self.jobs(), unit="measurement")]
        table = self.table(done)
        content = {
            "settings": {name: value for name, value in vars(self).items() if name != "output"},
            "machine": describe(self.device),
            "measurements": [asdict(each) for each in done],
        }
        write_results(self.output, content, table)
        return table

    def check(self, *at_least_one: str) -> None:
        """Refuse settings out of range.

        Args:
            at_least_one: Names of numbers that are to be at least 1.

        Raises:
            UserError: If one is not, or the model cannot be made.
        """
        for name in at_least_one:
            if getattr(self, name) < 1:
                raise UserError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.hidden_size % 32:
            raise UserError(f"hidden_size: expected a multiple of 32, got {self.hidden_size}")

    def now(self) -> float:
        """Seconds, once the device has done what it was given."""
        if self._on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    def memory(self, reset: bool = False) -> float:
        """MiB at the highest so far: of this process on a CPU, of torch on a GPU, there since the last ``reset``."""
        if self._on_gpu:
            if reset:
                torch.cuda.reset_peak_memory_stats()
            return torch.cuda.max_memory_allocated() / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    @property
    def _on_gpu(self) -> bool:
        return torch.device(self.device).type == "cuda"
