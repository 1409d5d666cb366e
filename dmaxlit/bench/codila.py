"""What does an auxiliary model (CoDiLA) mend of several tokens decided at once, and at which cost in time?"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from dmaxlit.bench.command import RECIPE_FOLDER, check_recipes, recipe_hashes, step_options
from dmaxlit.bench.output_folder import holds_output, kept_runs, record_settings, write_results
from dmaxlit.bench.own_time import one_thread
from dmaxlit.bench.shipped_base import SHIPPED_BASE, shipped_base_settings
from dmaxlit.bench.span_nats import span_nats
from dmaxlit.bench.summary import format_summary, summarize
from dmaxlit.bench.table_rows import TableRow
from dmaxlit.bench.trained_model import trained_model
from dmaxlit.engine import DecodeSettings
from dmaxlit.errors import UserError, check_at_least, check_distinct
from dmaxlit.evaluation.evaluate import evaluate
from dmaxlit.loading import load
from dmaxlit.module import DMaxModule
from dmaxlit.tasks import Example
from dmaxlit.tasks.base import requested_examples

__all__ = ["CODILA_TASKS", "CodilaBench"]

_RECIPES = _BASE, _AUXILIARY = "pretrain.yaml", "codila.yaml"


@dataclass(frozen=True)
class CodilaTask:
    """A task of the benchmark.

    Args:
        steps: Training steps of an auxiliary model.
        data: Options of ``dmaxlit fit`` for the data.
        base: Further ones for the base; None for the shipped one.
    """

    steps: int
    data: tuple[str, ...] = ()
    base: tuple[str, ...] | None = None


#: The tasks, by name.
CODILA_TASKS = {
    "chain": CodilaTask(300),
    "shuffle": CodilaTask(
        2000,
        ("--data.task=dependency", "--data.task_options.kind=shuffle", "--data.task_options.wording=words"),
        ("--model.backbone.tokenizer=dependency", "--model.backbone.block_length=8"),
    ),
}
_BATCH_SIZE = 32  # of both recipes
_AT_ONCE = 64  # prompts decoded together
_LEVELS = (1.0, 0.5)
_NATS = ("independent", "auxiliary", "sequential")


@dataclass(frozen=True)
class CodilaBench:
    """Train auxiliary models (CoDiLA) on frozen bases, decode with them and without, and print the tables.

    The base decodes as many tokens at each forward with the auxiliary model and without. The tasks are the chain task,
    on the shipped base, and a line of names to be shuffled (the dependency task), on a base that is trained first, with
    seed 0. Models and results are kept under the output folder: run it again after an interruption and it resumes. The
    defaults take about three quarters of an hour on one CPU core.

    Args:
        output: Folder for models, results.json and table.md.
        configs: Folder of the recipes: pretrain.yaml and codila.yaml.
        tasks: Some of chain and shuffle.
        seeds: Training seeds of the auxiliary models.
        span_length: Tokens that an auxiliary model decides together: 2, 4 or 8.
        steps: Training steps of an auxiliary model. Default: 300 for chain, 2000 for shuffle.
        base_steps: Training steps of the base of shuffle.
        num_examples: Test prompts decoded for each row.
        repeats: Times each row is decoded to measure its time, in turn with the others; the least time counts.
    """

    output: Path = Path("runs/codila_bench")
    configs: Path = RECIPE_FOLDER
    tasks: Sequence[str] = tuple(CODILA_TASKS)
    seeds: Sequence[int] = (0, 1, 2)
    span_length: int = 4
    steps: int | None = None
    base_steps: int = 1500
    num_examples: int = 500
    repeats: int = 3

    def __post_init__(self) -> None:
        """Check the settings before anything is started."""
        unknown = [name for name in self.tasks if name not in CODILA_TASKS]
        if unknown:
            raise UserError(f"tasks: expected some of {', '.join(CODILA_TASKS)}, got {unknown[0]!r}")
        check_distinct(tasks=self.tasks, seeds=self.seeds)
        check_at_least(1, **self._settings())
        if self.span_length not in (2, 4, 8):
            raise UserError(f"span_length: expected 2, 4 or 8, got {self.span_length}")
        check_recipes(self.configs, _RECIPES)

    @holds_output
    def run(self) -> str:
        """Train and decode what is missing, write ``results.json`` and ``table.md``, and return the table.

        Raises:
            UserError: If ``output`` holds results of other settings, or training fails.
        """
        settings = {**self._settings(), **shipped_base_settings()}
        record_settings(self.output, settings, recipe_hashes(self.configs, _RECIPES))
        pairs = [(task, seed) for seed in self.seeds for task in self.tasks]
        jobs = ((f"{task}-{seed}", partial(self._measure, task, seed)) for task, seed in pairs)
        runs = kept_runs(self.output, jobs, self._has_all_rows)
        rows = [row for task in self.tasks for row in codila_rows(task, self.span_length)]
        summary = summarize((result for run in runs for result in run["rows"]), rows)
        results = {"settings": self._settings(), "summary": summary, "runs": runs}
        table = format_tables(results)
        write_results(self.output, results, table)
        return table

    def _settings(self) -> dict[str, Any]:
        names = ("span_length", "steps", "base_steps", "num_examples", "repeats")
        return {name: getattr(self, name) for name in names}

    def _base(self, task: str) -> str:
        base = CODILA_TASKS[task].base
        if base is None:
            return SHIPPED_BASE
        return self._fit(_BASE, f"base-{task}", 0, self.base_steps, *CODILA_TASKS[task].data, *base)

    def _trained(self, task: str, seed: int) -> str:
        return self._fit(
            _AUXILIARY,
            f"{task}-{seed}",
            seed,
            self.steps or CODILA_TASKS[task].steps,
            f"--model.backbone.pretrained={self._base(task)}",
            f"--model.auxiliary.span_length={self.span_length}",
            f"--model.noise.init_args.span_length={self.span_length}",
            *CODILA_TASKS[task].data,
        )

    def _fit(self, recipe: str, folder: str, seed: int, steps: int, *options: str) -> str:
        rows = f"--data.num_train={_BATCH_SIZE * steps}"
        return trained_model(self.output / folder, self.configs / recipe, seed, *step_options(steps), rows, *options)

    def _has_all_rows(self, run: Mapping[str, Any]) -> bool:
        """Tell whether a kept run has all rows, which take turns, and so are taken again together."""
        wanted = {row.key for row in codila_rows(run["task"], self.span_length)}
        return wanted <= {row["row"] for row in run["rows"]}

    def _measure(self, task: str, seed: int) -> dict[str, Any]:
        module = load(self._trained(task, seed)).eval()
        trained_on = module.task()
        assert trained_on is not None, "the recipe names a task"
        examples = requested_examples(trained_on, "test", self.num_examples, "num_examples")
        rows = codila_rows(task, self.span_length)
        results = decode_in_turn(module, rows, examples, trained_on.max_new_tokens, self.repeats)
        nats = {f"{level:g}": span_nats(module, examples, level) for level in _LEVELS}
        return {"task": task, "seed": seed, "nats": nats, "rows": [{**result, "number": seed} for result in results]}


def codila_rows(task: str, span_length: int) -> tuple[TableRow, ...]:
    """Return the rows of a task: the second is the one that the times of the others are related to."""
    schedule = {"schedule_options": {"threshold": 0.5}}
    return (
        TableRow(task, "one token per forward", "one_token"),
        TableRow(task, f"{span_length} tokens", "threshold", {"threshold": 0.0, "max_tokens": span_length}),
        TableRow(task, "a span, independently", "codila", {"joint": False}),
        TableRow(task, "codila, static", "codila"),
        *(
            TableRow(task, f"codila, dynamic {tau:g}", "codila", {"mode": "dynamic", "tau": tau})
            for tau in (0.5, 1.0, 1.5)
        ),
        TableRow(task, "threshold 0.5", "threshold", {"threshold": 0.5}),
        TableRow(task, "codila_verify, threshold 0.5", "codila_verify", schedule),
    )


def decode_in_turn(
    module: DMaxModule, rows: Sequence[TableRow], examples: Sequence[Example], max_new_tokens: int, repeats: int
) -> list[dict[str, Any]]:
    """Decode examples by every row, once for its figures, and then several times in turn for its time.

    Args:
        module: The model.
        rows: The rows.
        examples: Prompts with their checkers.
        max_new_tokens: Budget of tokens for each answer.
        repeats: Number of turns.

    Returns:
        For each row its key, the figures of the decode, and ``process_seconds``: the least time of this process, on one
        thread.
    """
    figures = [evaluate(module, examples, row.decoder, row.options, max_new_tokens, _AT_ONCE).to_dict() for row in rows]
    prompts = [example.prompt for example in examples]
    seconds: list[list[float]] = [[] for _ in rows]
    with one_thread():
        for _ in range(repeats):
            for row, times in zip(rows, seconds, strict=True):
                settings = DecodeSettings(row.decoder, row.options, max_new_tokens, _AT_ONCE)
                begin = time.process_time()
                module.generate_batch(prompts, settings)
                times.append(time.process_time() - begin)
    return [
        {"row": row.key, **own, "process_seconds": min(times)}
        for row, own, times in zip(rows, figures, seconds, strict=True)
    ]


def format_tables(results: Mapping[str, Any]) -> str:
    """Format the content of ``results.json``: accuracies, times, and the cross-entropies of masked spans."""
    return "\n\n".join([format_summary(results["summary"]), _format_times(results), _format_nats(results["runs"])])


def _format_times(results: Mapping[str, Any]) -> str:
    """Format the process time of each row, and that of one of its forwards, as ratios to the task's second row."""
    ratios: dict[str, list[tuple[float, float]]] = {}
    for run in results["runs"]:
        reference = run["rows"][1]
        for row in run["rows"]:
            time_ratio = row["process_seconds"] / reference["process_seconds"]
            forward_ratio = row["forwards_per_answer"] / reference["forwards_per_answer"]
            ratios.setdefault(row["row"], []).append((time_ratio, time_ratio / forward_ratio))
    lines = ["| model, decoder | time | time of a forward |", "|---|---|---|"]
    for entry in results["summary"]:
        whole, forward = (fmean(column) for column in zip(*ratios[entry["row"]], strict=True))
        lines.append(f"| {entry['row']} | {whole:.2f} | {forward:.2f} |")
    return "\n".join(lines)


def _format_nats(runs: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"| task, masked | {' | '.join(_NATS)} |", "|---|---|---|---|"]
    for task in dict.fromkeys(run["task"] for run in runs):
        for level in runs[0]["nats"]:
            nats = [run["nats"][level] for run in runs if run["task"] == task]
            means = (f"{fmean(entry[name] for entry in nats):.3f}" for name in _NATS)
            lines.append(f"| {task}, {100 * float(level):.0f}% | {' | '.join(means)} |")
    return "\n".join(lines)
