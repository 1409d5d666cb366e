"""Evaluate a model on tasks, in every setting: what ``dmaxlit evaluate`` does."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmaxlit.data.eval_prompts import decodable_examples
from dmaxlit.data.identity import answers_hash, prompts_hash, template_hash
from dmaxlit.data.template_date import written_day
from dmaxlit.errors import DMaxWarning, UserError, check_at_least, reason_of, renaming_argument
from dmaxlit.evaluation.answerers import Answerer, DiffusionAnswerer, Sampling
from dmaxlit.evaluation.autoregressive import AutoregressiveAnswerer
from dmaxlit.evaluation.cell import Cell
from dmaxlit.evaluation.cell_result import CellResult
from dmaxlit.evaluation.decoder_entries import ONE_TOKEN, DecoderEntry
from dmaxlit.evaluation.labels import check_titles
from dmaxlit.evaluation.limits import Limits
from dmaxlit.evaluation.record import describe_device, describe_model, make_record
from dmaxlit.evaluation.run_folder import claim_folder, record_environment
from dmaxlit.evaluation.run_report import finished_table, write_run_report
from dmaxlit.evaluation.sample_files import TASK_OPTIONS, SampleFile
from dmaxlit.evaluation.sample_rows import extra_columns
from dmaxlit.evaluation.software import software
from dmaxlit.evaluation.task_entries import TaskEntry
from dmaxlit.locks import exclusive_folder
from dmaxlit.ranks import Ranks
from dmaxlit.tasks import Example, Split
from dmaxlit.tasks.base import examples_up_to

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from dmaxlit.module import DMaxModule

#: Prompts of a task that draws as many as one asks for.
DEFAULT_PROMPTS = 100


@dataclass(frozen=True)
class Suite:
    """The settings of an evaluation.

    Args:
        tasks: The tasks.
        decoders: The decoders, with the baseline.
        num_prompts: Prompts of each task, the first of the split; fewer where a task has fewer. Default: all, 100 at
            most of a task that draws them.
        split: The split.
        max_new_tokens: Budget of tokens for each answer, EOS included. Default: the task's own.
        batch_size: Prompts that share a forward. It changes the speed, not the answers.
        sampling: How tokens are drawn.
        compile: Compile the forwards.
        trace: Write the record of every forward into the rows; this takes time, which is measured too.
        num_nodes: Nodes it runs on, for the record.

    Raises:
        UserError: If a number is below 1.
    """

    tasks: Sequence[TaskEntry]
    decoders: Sequence[DecoderEntry]
    num_prompts: int | None = None
    split: Split = "test"
    max_new_tokens: int | None = None
    batch_size: int = 64
    sampling: Sampling = field(default_factory=Sampling)
    compile: bool = False
    trace: bool = False
    num_nodes: int = 1

    def __post_init__(self) -> None:
        check_at_least(1, num_prompts=self.num_prompts, max_new_tokens=self.max_new_tokens, batch_size=self.batch_size)

    def run(
        self,
        ranks: Ranks,
        load: Callable[[], DMaxModule],
        source: str,
        output: Path,
        overwrite: bool = False,
        progress: bool = True,
        load_baselines: Callable[[], Sequence[AutoregressiveAnswerer]] = tuple,
    ) -> str:
        """Answer what is not answered yet, write tables, curves and record, and return the tables.

        Args:
            ranks: The processes.
            load: Loads the model on this process's device.
            source: What the user named as the model, for the record.
            output: The folder to write.
            overwrite: Remove the results of a run that is complete, or has other settings.
            progress: Show progress bars.
            load_baselines: Loads autoregressive models to compare with.

        Raises:
            UserError: If a prompt does not fit the model, a task has no prompts, or the folder cannot be used.
        """
        module = ranks.together(load)
        baselines = ranks.together(load_baselines)
        cells = ranks.together(lambda: self.cells(module, baselines))
        model = ranks.from_main(lambda: describe_model(module, source))
        settings = ranks.together(lambda: self.settings(module, model["weights_sha256"], cells))
        facts = ranks.together(lambda: {entry.label: entry.facts() for entry in self.tasks})
        with ExitStack() as stack:
            ranks.from_main(lambda: self._begin(stack, output, settings, overwrite))
            if ranks.is_main:
                self._warn_of_other_options(module)
            if (table := ranks.from_main(lambda: finished_table(output))) is not None:
                return table
            tokenizers = [module.tokenizer, *(baseline.tokenizer for baseline in baselines)]
            environment = self._environment(model, ranks, tokenizers)
            environments = ranks.from_main(lambda: record_environment(output, environment))
            for number, cell in enumerate(cells, start=1):
                cell.run(sample_file(output, settings, cell), ranks, progress, f"[{number}/{len(cells)}]")
            return ranks.from_main(
                lambda: self._report(model, baselines, settings, facts, cells, output, ranks, environments)
            )

    def _warn_of_other_options(self, module: DMaxModule) -> None:
        """Say where a task is not what the model was trained on, and nobody has asked for that."""
        for entry in self.tasks:
            trained = module.task_options if entry.name == module.task_name else {}
            for name in entry.unlike(trained):
                warnings.warn(
                    f"task.{entry.label}.{name}: {entry.task.options()[name]!r} by default, but the model was trained "
                    f"with {trained[name]!r}",
                    DMaxWarning,
                    stacklevel=2,
                )

    def cells(self, module: DMaxModule, baselines: Sequence[AutoregressiveAnswerer] = ()) -> list[Cell]:
        """Return every task answered in every way, the baselines next to that of one token per forward.

        Args:
            module: The model.
            baselines: Autoregressive models.

        Raises:
            UserError: If a prompt does not fit the model, a task has no prompts, or a decoder has a baseline's title.
        """
        diffusion = [
            DiffusionAnswerer(module, entry, self.batch_size, self.sampling, self.compile, self.trace)
            for entry in self.decoders
        ]
        answerers: list[Answerer] = sorted([*baselines, *diffusion], key=lambda answerer: answerer.name != ONE_TOKEN)
        check_titles([answerer.title for answerer in answerers], "decoders")
        cells = []
        for entry in self.tasks:
            examples = self._examples(entry, module)
            for baseline in baselines:
                self._check(examples, entry, baseline.tokenizer, baseline.context_length, allow_empty=False)
            limits = Limits.of_task(entry.task, self.max_new_tokens)
            cells += [Cell(entry, examples, limits, answerer) for answerer in answerers]
        return cells

    def settings(self, module: DMaxModule, weights: str, cells: Sequence[Cell]) -> dict[str, Any]:
        """Return everything that the answers depend on, as JSON values.

        Args:
            module: The model.
            weights: Hash of its weights.
            cells: All cells.

        Raises:
            UserError: If an option of a task or decoder is no JSON value.
        """
        tasks = {
            cell.entry.label: {
                "name": cell.entry.name,
                "options": cell.entry.task.options(),
                "num_prompts": len(cell.examples),
                "prompts": prompts_hash([example.prompt for example in cell.examples]),
                "answers": answers_hash(cell.examples),
                "max_new_tokens": cell.limits.max_new_tokens,
                "stop": list(cell.limits.stop),
            }
            for cell in {cell.entry.label: cell for cell in cells}.values()  # those of a task differ in the answerer
        }
        settings = {
            "dtype": str(module.backbone.embedding.dtype).removeprefix("torch."),
            "model": weights,
            "block_length": module.backbone.block_length,
            "chat_template": template_hash(module.tokenizer),
            "split": self.split,
            **asdict(self.sampling),
            "trace": self.trace,
            "tasks": tasks,
            "decoders": {cell.answerer.title: cell.answerer.identity() for cell in cells},
        }
        try:
            return dict(json.loads(json.dumps(settings)))
        except (TypeError, ValueError) as error:
            raise UserError(f"tasks: expected options that JSON can express ({reason_of(error)})") from error

    def _examples(self, entry: TaskEntry, module: DMaxModule) -> list[Example]:
        available = entry.task.count(self.split)
        most = self.num_prompts or (DEFAULT_PROMPTS if available is None else available)
        with renaming_argument("num_prompts", "n"):
            examples = examples_up_to(entry.task, self.split, most)
        if not examples:
            raise UserError(f"tasks: expected {self.split} prompts of {entry.label!r}, found none")
        self._check(examples, entry, module.tokenizer, module.backbone.max_length)
        for number, example in enumerate(examples, start=1):
            try:
                extra_columns(example)
            except UserError as error:
                raise UserError(f"{entry.label}: {self.split} prompt {number}: {error}") from error
        return examples

    def _check(
        self,
        examples: list[Example],
        entry: TaskEntry,
        tokenizer: PreTrainedTokenizerBase,
        context: int,
        allow_empty: bool = True,
    ) -> None:
        """Refuse prompts that a model cannot answer, before any is answered."""
        try:
            decodable_examples(examples, self.split, tokenizer, context, allow_empty=allow_empty)
        except UserError as error:
            raise UserError(f"{entry.label}: {error}") from error

    def _begin(self, stack: ExitStack, output: Path, settings: dict[str, Any], overwrite: bool) -> None:
        if output.exists() and not output.is_dir():
            raise UserError(f"output: expected a folder to write, got {str(output)!r}, which is none")
        stack.enter_context(exclusive_folder(output, "output"))
        claim_folder(output, settings, overwrite)

    def _environment(
        self, model: dict[str, Any], ranks: Ranks, tokenizers: Sequence[PreTrainedTokenizerBase]
    ) -> dict[str, Any]:
        """Return what answers and their times depend on besides the settings."""
        device = describe_device(ranks.device, ranks.world_size, self.num_nodes)
        days = [day for day in map(written_day, tokenizers) if day is not None]
        return {
            **({"date": days[0]} if days else {}),
            "software": software(),
            "attention": model["attention"],
            "device": device,
            "batch_size": self.batch_size,
            "compile": self.compile,
        }

    def _report(
        self,
        model: dict[str, Any],
        baselines: Sequence[AutoregressiveAnswerer],
        settings: dict[str, Any],
        facts: dict[str, dict[str, Any]],
        cells: Sequence[Cell],
        output: Path,
        ranks: Ranks,
        environments: Sequence[dict[str, Any]],
    ) -> str:
        results = [cell_result(cell, sample_file(output, settings, cell), settings["block_length"]) for cell in cells]
        device = describe_device(ranks.device, ranks.world_size, self.num_nodes)
        record = make_record(settings, model, [b.describe() for b in baselines], facts, results, device, environments)
        return write_run_report(output, record, results)


def cell_identity(settings: dict[str, Any], cell: Cell) -> dict[str, Any]:
    """Return what the rows of one cell depend on, of the settings of all."""
    shared = {name: value for name, value in settings.items() if name not in ("tasks", "decoders")}
    task = dict(settings["tasks"][cell.entry.label])
    task[TASK_OPTIONS] = task.pop("options")  # "options" are the decoder's
    own = {"title": cell.answerer.title, **cell.answerer.identity()}
    return {**shared, "task": cell.entry.label, **task, **own}


def sample_file(output: Path, settings: dict[str, Any], cell: Cell) -> SampleFile:
    """Return the file of a cell's answers, in a folder that has been claimed for these settings.

    Args:
        output: The folder.
        settings: The settings of all cells.
        cell: The cell.
    """
    return SampleFile(output / cell.file, cell_identity(settings, cell))


def cell_result(cell: Cell, file: SampleFile, block_length: int) -> CellResult:
    """Return the figures of a complete cell."""
    answerer = cell.answerer
    return CellResult.of_rows(
        file.read(),
        file.timing() or {},
        task=cell.entry.label,
        title=answerer.title,
        line=answerer.line,
        threshold=answerer.threshold,
        samples=cell.file.as_posix(),
        decoder=answerer.name,
        options=answerer.options,
        block_length=block_length,
    )
