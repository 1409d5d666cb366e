"""Base of the benchmarks of speed: a process for each measurement, clock, memory, and the files that are written."""

import multiprocessing
import resource
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from dataclasses import asdict
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from dmaxlit.bench.output_folder import holds_output, write_results
from dmaxlit.bench.own_time import own_time
from dmaxlit.errors import UserError, check_at_least
from dmaxlit.loading import usable_device

T = TypeVar("T")
_PATIENCE = 1.0  # seconds
_REPEATS = 5  # of short timings, of which the fastest counts


class SpeedBench(ABC):
    """A dataclass of settings. Each of its measurements runs in a new process."""

    output: Path
    hidden_size: int
    head_dim: int
    device: str

    @abstractmethod
    def jobs(self) -> Sequence[tuple[Any, ...]]:
        """Return the arguments of :meth:`measure` for each measurement."""

    @abstractmethod
    def measure(self, *job: Any) -> Any:
        """Take one measurement in this process, and return it as a dataclass."""

    @abstractmethod
    def table(self, measurements: Sequence[Any]) -> str:
        """Format all measurements as a Markdown table."""

    @holds_output
    def run(self) -> str:
        """Measure, write ``results.json`` and ``table.md``, and return the table."""
        self.output.mkdir(parents=True, exist_ok=True)
        measurements = []
        for job in tqdm(self.jobs(), unit="measurement"):
            measurements.append(in_new_process(self.measure, *job))
            tqdm.write(str(measurements[-1]), file=sys.stderr)  # all that is left of a run that is stopped
        table = self.table(measurements)
        content = {
            "settings": {name: value for name, value in vars(self).items() if name != "output"},
            "machine": describe_machine(self.device),
            "measurements": [asdict(measurement) for measurement in measurements],
        }
        write_results(self.output, content, table)
        return table

    def check(self, *at_least_one: str) -> None:
        """Refuse settings out of range, and find the device.

        Args:
            at_least_one: Names of the settings that must be at least 1.

        Raises:
            UserError: If one is out of range, the model cannot be built, or torch cannot compute on the device.
        """
        check_at_least(1, **{name: getattr(self, name) for name in (*at_least_one, "head_dim")})
        if self.hidden_size % self.head_dim:
            raise UserError(f"hidden_size: expected a multiple of head_dim {self.head_dim}, got {self.hidden_size}")
        self.device = usable_device(self.device)

    def now(self) -> float:
        """Return the time in seconds, once the device has finished its work: see :func:`own_time`."""
        return own_time(self.device)

    def fastest(self, function: Callable[[], object]) -> float:
        """Return the seconds that a function takes, the fastest of five calls."""
        seconds = []
        for _ in range(_REPEATS):
            begin = self.now()
            function()
            seconds.append(self.now() - begin)
        return min(seconds)

    def matmul_speed(self, dtype: str) -> float:
        """Measure the operations per second of one matrix product that is large for the device.

        Args:
            dtype: Type of its numbers, such as ``float32``.
        """
        size = 8192 if self._on_gpu else 2048
        matrix = torch.randn(size, size, device=self.device, dtype=getattr(torch, dtype))
        return 2 * size**3 / self.fastest(lambda: matrix @ matrix)

    def memory(self, reset: bool = False) -> float:
        """Return the peak memory in MiB: of this process on a CPU, of torch on a GPU.

        Args:
            reset: Count from here on. It has no effect on a CPU.
        """
        if self._on_gpu:
            if reset:
                torch.cuda.reset_peak_memory_stats()
            return torch.cuda.max_memory_allocated() / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    @property
    def _on_gpu(self) -> bool:
        return torch.device(self.device).type == "cuda"


def in_new_process(function: Callable[..., T], *arguments: object) -> T:
    """Call a function in a new process, which no other measurement has warmed up or filled.

    It is forked from a server that has imported the benchmarks and done nothing else, where the system has that.
    """
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if isinstance(context, ForkServerContext):
        context.set_forkserver_preload(["dmaxlit.bench"])

    result: Future[T] = Future()

    def run() -> None:
        try:
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                value = pool.submit(function, *arguments).result()
            result.set_result(value)  # now that the process is gone, which would disturb the next one
        except BaseException as error:
            result.set_exception(error)

    # In a thread, which no signal interrupts: a pool that has not started all of its parts cannot be shut down.
    thread = threading.Thread(target=run)
    try:
        thread.start()
        while not result.done():
            wait([result], _PATIENCE)  # a signal that comes just before a wait is heeded after it
        return result.result()
    except (KeyboardInterrupt, SystemExit):
        while thread.is_alive():
            for process in multiprocessing.active_children():
                process.terminate()
            time.sleep(0.05)
        raise


def describe_machine(device: str) -> dict[str, object]:
    """Return the name of a device, torch's number of CPU threads, and its version.

    Args:
        device: ``cpu``, ``cuda``, ...
    """
    is_gpu = torch.device(device).type == "cuda"
    name = torch.cuda.get_device_name() if is_gpu else f"cpu, {multiprocessing.cpu_count()} cores"
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}
