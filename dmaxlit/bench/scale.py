"""How distillation, evaluation and training grow with the number of processes: strong and weak scaling."""

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from dmaxlit.backbone.denoiser import Denoiser
from dmaxlit.bench.command import RECIPE_FOLDER, fit, run_module, step_options
from dmaxlit.bench.decoding_ranks import DecodingRun
from dmaxlit.bench.loading import write_corpus
from dmaxlit.bench.output_folder import holds_output, kept_runs, record_settings, write_results
from dmaxlit.bench.process_figures import read_figures
from dmaxlit.bench.random_model import model_config
from dmaxlit.bench.scale_table import ScaleJob, ScaleRun, format_table, run_of_figures
from dmaxlit.bench.speed import describe_machine
from dmaxlit.bench.start_line import call_off
from dmaxlit.errors import UserError, check_at_least, check_distinct
from dmaxlit.files import remove
from dmaxlit.module import DMaxModule

__all__ = ["ScaleBench"]

_WARM_UP, _PROFILED = 5, 5  # updates before those that are timed, and after them
_BLOCK, _POSITIONS = 32, 512
_STRATEGIES = {"DDP": "ddp", "FSDP2": "FSDP2Strategy"}


@dataclass
class ScaleBench:
    """Distil, evaluate and train on more and more processes of this machine, and print the table of scaling.

    Strong scaling shares the work of one process among several; weak scaling gives each as much. Beside every run on
    several processes stand as many separate runs of one process at the same time, each with the same share of the work:
    what these lose is what processes take from each other, such as memory bandwidth, and only the rest is due to the
    work being shared. All measurements take turns, and the table holds medians. Finished ones are kept under the output
    folder: run it again after an interruption and it resumes. A turn of the defaults is 17 measurements, each in new
    processes.

    Args:
        output: Folder for results.json and table.md.
        processes: Numbers of processes, one of each device; 1 is always measured.
        model: Folder, .ckpt file, hub id or builtin:NAME.
        hidden_size: Width of a model with random weights, a multiple of head_dim, in place of the model.
        head_dim: Width of its attention heads.
        layers: Its layers.
        prompts: Prompts that one process alone answers, of each command; a multiple of each number of processes.
        batch_size: Prompts that a process decodes together.
        rows: Rows of an update of one process alone, a multiple of each number of processes.
        updates: Updates that are timed.
        repeats: How often everything is measured.
        threads: CPU threads of each process.
        device: cpu, or cuda for one GPU for each process.
        dtype: Type of the weights while decoding; training computes in it, if it is bfloat16, over float32 weights.
    """

    output: Path = Path("runs/scale")
    processes: Sequence[int] = (1, 2)
    model: str = "builtin:chain-base"
    hidden_size: int | None = None
    head_dim: int = 32
    layers: int = 4
    prompts: int = 128
    batch_size: int = 32
    rows: int = 32
    updates: int = 20
    repeats: int = 3
    threads: int = 1
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        """Check the settings before anything is started."""
        self.output = Path(self.output)
        names = ("head_dim", "layers", "prompts", "batch_size", "rows", "updates", "repeats", "threads", "hidden_size")
        check_at_least(1, **{name: getattr(self, name) for name in names})
        check_distinct(processes=self.processes)
        check_at_least(1, processes=min(self.processes))
        self.processes = tuple(sorted({1, *self.processes}))
        for name in ("prompts", "rows"):
            for number in self.processes:
                if getattr(self, name) % number:
                    raise UserError(f"{name}: expected a multiple of {number} processes, got {getattr(self, name)}")
        if self.hidden_size is not None and self.hidden_size % self.head_dim:
            raise UserError(f"hidden_size: expected a multiple of head_dim {self.head_dim}, got {self.hidden_size}")
        if self.device == "cuda" and torch.cuda.device_count() < max(self.processes):
            raise UserError(f"processes: expected at most {torch.cuda.device_count()} GPUs, got {max(self.processes)}")

    @holds_output
    def run(self) -> str:
        """Measure what is missing, write ``results.json`` and ``table.md``, and return the table.

        Raises:
            UserError: If ``output`` holds results of other settings, or a command fails.
        """
        settings = {name: value for name, value in vars(self).items() if name not in ("output", "repeats", "processes")}
        record_settings(self.output, settings)
        self._prepare()
        turns = [(repeat, job) for repeat in range(self.repeats) for job in self.jobs()]
        kept = kept_runs(self.output, self._measurements({f"{job.name}-{repeat}": job for repeat, job in turns}))
        runs = [ScaleRun(**{**run, "repeat": repeat}) for (repeat, _), run in zip(turns, kept, strict=True)]
        remove(self._scratch)
        table = format_table(runs)
        machine = {**describe_machine(self.device), "threads": self.threads}
        content = {"settings": settings, "machine": machine, "runs": [asdict(run) for run in runs]}
        write_results(self.output, content, table)
        return table

    def jobs(self) -> Iterator[ScaleJob]:
        """Yield the measurements of a turn: for each command one process, then each number of them, in each way."""
        for command, ways in (("distill", ["shared"]), ("evaluate", ["shared"]), ("fit", list(_STRATEGIES))):
            yield ScaleJob(command, "alone", "", 1)
            for number in self.processes[1:]:
                for scaling in ("strong", "weak"):
                    for way in ("apart", *ways):
                        yield ScaleJob(command, way, scaling, number)

    @property
    def _scratch(self) -> Path:
        return self.output / "scratch"

    @property
    def _model(self) -> str:
        return self.model if self.hidden_size is None else str(self.output / "model")

    def _prepare(self) -> None:
        """Write the corpus that all runs of training read and, where one is asked for, the model."""
        remove(self._scratch)  # of a run that was killed
        self._scratch.mkdir(parents=True)
        write_corpus(self._scratch / "rows.jsonl", self._steps * self.rows * max(self.processes))
        if self.hidden_size is not None and not Path(self._model).is_dir():
            config = model_config(self.hidden_size, self.layers, self.head_dim, _POSITIONS, tied=True)
            torch.manual_seed(0)
            DMaxModule(Denoiser(config=config, tokenizer="chain", block_length=_BLOCK)).export(self._model)

    @property
    def _steps(self) -> int:
        return _WARM_UP + self.updates + _PROFILED

    def _measurements(self, names: dict[str, ScaleJob]) -> Iterator[tuple[str, Any]]:
        for name, job in names.items():
            yield name, partial(self._measure, name, job)

    def _measure(self, name: str, job: ScaleJob) -> dict[str, Any]:
        """Run a measurement in new processes, and return its figures as plain values."""
        folder = self._scratch / name
        remove(folder)
        numbers = range(job.processes if job.way == "apart" else 1)
        failures: list[UserError] = []
        with ThreadPoolExecutor(len(numbers)) as pool:
            runs = [pool.submit(self._run, folder, job, number, failures) for number in numbers]
        if failures:
            raise failures[0]  # it has the reason; the others have heard of it
        for run in runs:
            run.result()
        measured = run_of_figures(job, read_figures(folder))
        remove(folder)
        return asdict(measured)

    def _run(self, folder: Path, job: ScaleJob, number: int, failures: list[UserError]) -> None:
        """Run a command; if it fails, note that, and let those fail that would wait for its start."""
        try:
            (self._train if job.command == "fit" else self._decode)(folder, job, number)
        except UserError as error:
            failures.append(error)
            call_off(folder / "start")
            raise

    def _devices(self, job: ScaleJob, number: int) -> int | list[int]:
        """Return the devices of a run: the number of those it shares work among, or the index of its own."""
        if job.way != "apart":
            return job.processes
        return 1 if self.device == "cpu" else [number]

    def _decode(self, folder: Path, job: ScaleJob, number: int) -> None:
        run = DecodingRun(
            command=job.command,
            folder=str(folder),
            model=self._model,
            num_prompts=job.share(self.prompts) * (1 if job.way == "apart" else job.processes),
            batch_size=self.batch_size,
            device=self.device,
            devices=self._devices(job, number),
            threads=self.threads,
            dtype=self.dtype,
            number=number,
            total=job.processes,
        )
        run_module("dmaxlit.bench.decoding_process", run.arguments(), name=job.command, environment=self._environment())

    def _train(self, folder: Path, job: ScaleJob, number: int) -> None:
        clock = {
            "class_path": "dmaxlit.bench.step_clock.StepClock",
            "init_args": {
                "folder": str(folder),
                "warm_up": _WARM_UP,
                "updates": self.updates,
                "profiled": _PROFILED,
                "number": number,
                "total": job.processes,
            },
        }
        options = {
            "trainer.callbacks": json.dumps([clock]),
            "trainer.enable_checkpointing": "false",
            "trainer.accelerator": self.device,
            "trainer.devices": self._devices(job, number),
            "trainer.strategy": _STRATEGIES.get(job.way, "auto"),
            "trainer.precision": "bf16-mixed" if self.dtype == "bfloat16" else "32-true",
            "model.backbone.pretrained": self._model,
            "model.optimizer": "AdamW",  # which can be sharded
            "data.corpus": self._scratch / "rows.jsonl",
            "data.num_val": 0,
            "data.num_test": 0,
            "data.batch_size": job.share(self.rows),
        }
        arguments = [*step_options(self._steps), *(f"--{name}={value}" for name, value in options.items())]
        run_folder = folder / f"fit-{number}"
        fit(RECIPE_FOLDER / "quickstart.yaml", run_folder, 0, *arguments, environment=self._environment())

    def _environment(self) -> dict[str, str]:
        """Return the environment of a command: that of this process, without the tasks of SLURM that it is one of."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        return {**inherited, "OMP_NUM_THREADS": str(self.threads)}
