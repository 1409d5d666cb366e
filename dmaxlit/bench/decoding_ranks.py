"""Distil or evaluate on some processes, and time each.

Lightning's launcher starts the other processes, as for the commands, which call the same functions.
"""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from dmaxlit.bench.process_figures import ProcessFigures
from dmaxlit.bench.start_line import wait_for_others
from dmaxlit.data.distill import DistillSettings, distill
from dmaxlit.evaluation.decoder_entries import decoder_entries
from dmaxlit.evaluation.evaluate import device_time
from dmaxlit.evaluation.suite import Suite
from dmaxlit.evaluation.task_entries import task_entries
from dmaxlit.loading import load
from dmaxlit.module import DMaxModule
from dmaxlit.ranks import Ranks
from dmaxlit.tasks import task as task_by_name

_DECODER = "threshold"
_WARM_UP_FORWARDS = 20


@dataclass(frozen=True)
class DecodingRun:
    """One run of a command that shares prompts among processes.

    Args:
        command: ``distill`` or ``evaluate``.
        folder: New folder for what it writes and for the figures of each process.
        model: Folder, ``.ckpt`` file, hub id, or ``builtin:NAME``.
        num_prompts: Prompts of the chain task, of all processes of this run.
        batch_size: Prompts that a process decodes together.
        device: Kind of device.
        devices: Their number, or the index of each.
        threads: CPU threads of a process.
        dtype: Type of the weights.
        number: Number of this run's first process among those that measure at the same time.
        total: How many these are, all ranks of all runs.
    """

    command: str
    folder: str
    model: str
    num_prompts: int
    batch_size: int
    device: str
    devices: int | list[int]
    threads: int
    dtype: str
    number: int = 0
    total: int = 1

    def arguments(self) -> str:
        """Return the run as the argument of this module."""
        return json.dumps(asdict(self))

    def measure(self) -> None:
        """Run the command in this process, and in the others that it starts."""
        torch.set_num_threads(self.threads)
        ranks = Ranks.launch(self.device, self.devices)
        module = load(self.model, device=str(ranks.device), dtype=self.dtype, probe=False)  # type: ignore[arg-type]
        clock = _Clock(module)
        prompts = [example.prompt for example in task_by_name("chain").examples("val", self.batch_size)]
        settings = {"decoder": _DECODER, "batch_size": self.batch_size, "max_forwards": _WARM_UP_FORWARDS}
        module.generate_batch(prompts, settings)
        number = self.number + ranks.rank
        wait_for_others(Path(self.folder) / "start", number, self.total)
        begin = time.perf_counter()
        (self._distill if self.command == "distill" else self._evaluate)(ranks, module)
        slowest = max(ranks.gather(clock.seconds))
        rest = time.perf_counter() - begin - slowest
        figures = ProcessFigures(clock.seconds, clock.cpu_seconds, clock.tokens, rest_seconds=rest)
        figures.write(Path(self.folder), number)
        ranks.end()

    def _distill(self, ranks: Ranks, module: DMaxModule) -> None:
        settings = DistillSettings(
            num_prompts=self.num_prompts, decoder=_DECODER, batch_size=self.batch_size, keep="all"
        )
        corpus = Path(self.folder) / f"corpus-{self.number}.jsonl"
        distill(module, task_by_name("chain"), corpus, settings, progress=False, ranks=ranks)

    def _evaluate(self, ranks: Ranks, module: DMaxModule) -> None:
        suite = Suite(
            tasks=task_entries(["chain"], {}, "tasks"),
            decoders=decoder_entries([_DECODER], False, "decoders"),
            num_prompts=self.num_prompts,
            batch_size=self.batch_size,
        )
        suite.run(ranks, lambda: module, self.model, Path(self.folder) / f"evaluation-{self.number}", progress=False)


class _Clock:
    """Counts the tokens that a model generates for others, and the time of it.

    Args:
        module: The model, whose ``generate_batch`` is replaced.
    """

    def __init__(self, module: DMaxModule) -> None:
        self.seconds = self.cpu_seconds = 0.0
        self.tokens = 0
        self._module, self._generate = module, module.generate_batch
        module.generate_batch = self._timed  # type: ignore[method-assign]

    def _timed(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("on_response") is None:  # a warm-up
            return self._generate(*args, **kwargs)
        device = self._module.backbone.device
        begin, cpu_begin = device_time(device), time.process_time()
        generations = self._generate(*args, **kwargs)
        self.seconds += device_time(device) - begin
        self.cpu_seconds += time.process_time() - cpu_begin
        self.tokens += sum(generation.num_tokens for generation in generations)
        return generations
