"""Writes the answers of ``predict`` to a file."""

import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import lightning as L
import torch.distributed as dist

from dmaxlit.callbacks._display import progress_bar
from dmaxlit.data.encoding import encode_prompts
from dmaxlit.data.identity import template_hash
from dmaxlit.data.json_lines import write_rows
from dmaxlit.data.resumable_jsonl import PartialCorpus, output_path, refusing
from dmaxlit.errors import UserError, check_at_least, printable
from dmaxlit.evaluation.answer_rows import answer_row, columns_in, kept_columns
from dmaxlit.evaluation.evaluate import DecoderSpec, count_answers, summarize
from dmaxlit.evaluation.results import format_table, with_current_names
from dmaxlit.evaluation.validation_batches import answer_limits, examples_of, make_meter
from dmaxlit.files import expanded, files_of_options, remove_unfinished, require_other_files
from dmaxlit.locks import exclusive
from dmaxlit.tasks import Example, Task
from dmaxlit.tasks.sources import require_outside
from dmaxlit.weights_hash import weights_hash

if TYPE_CHECKING:
    from dmaxlit.module import DMaxModule

__all__ = ["PredictionWriter"]


class PredictionWriter(L.Callback):
    """Decodes the prompts of ``predict`` and writes one JSON object for each, in their order.

    An object holds ``index``, ``prompt``, ``response``, ``correct`` (the checker's verdict), ``num_tokens``,
    ``num_forwards``, ``finished``, ``hit_step_limit`` and the columns that came with the prompt, such as an id; one
    that has the name of a column of ours is kept as ``prompt_<name>``. Ranks share the prompts; rank zero writes the
    output. Each rank also appends its answers to a partial file next to the output: run again after an interruption,
    with the same model, chat template, decoder, window and number of ranks, it resumes.

    Args:
        output: File to write, replaced if it exists.
        decoder: The decoder.
        max_new_tokens: Token budget for an answer, at least 1. Default: the task's. Its stop texts end answers too.
        batch_size: Prompts decoded together, at least 1.

    Raises:
        UserError: For a setting out of range; when ``predict`` starts, if the output cannot be written, or was begun
            with another model, chat template, decoder, window, budget or number of ranks, or another process writes it.
    """

    def __init__(
        self, output: str, decoder: DecoderSpec, max_new_tokens: int | None = None, batch_size: int = 64
    ) -> None:
        super().__init__()
        check_at_least(1, max_new_tokens=max_new_tokens, batch_size=batch_size)
        self.output, self.decoder = Path(expanded(output)), decoder
        self.max_new_tokens, self.batch_size = max_new_tokens, batch_size
        self._rows: dict[int, dict[str, Any]] = {}
        self._stored: dict[int, dict[str, Any]] = {}  # those of an interrupted run
        self._meter: Any = None
        self._partial: PartialCorpus
        self._path = self.output
        self._lock = ExitStack()

    def on_predict_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the partial file of this rank, or resume it."""
        self._meter = make_meter(pl_module)
        self._path = output_path(self.output, "output")
        task = getattr(getattr(trainer, "datamodule", None), "task", None)
        if isinstance(task, Task):
            require_other_files({"output": self.output}, files_of_options("--data.task_options", task.options()))
            require_outside({"output": self.output}, {}, "--data.task_options", task.options())
        limits = answer_limits(self.max_new_tokens, trainer, pl_module)
        spec = self.decoder
        window = [spec.window, spec.admission, spec.admission_options] if spec.window > 1 else []
        identity = {
            "model": weights_hash(pl_module),
            "decoder": [spec.name, spec.options, *window],
            "max_new_tokens": limits.max_new_tokens,
            **({"stop": list(limits.stop)} if limits.stop else {}),  # absent from files begun before there were any
            "ranks": trainer.world_size,
            "chat_template": template_hash(cast("DMaxModule", pl_module).tokenizer),
        }
        rank_output = self._path.with_name(f"{self._path.name}.rank{trainer.global_rank}")
        self._lock.enter_context(exclusive(rank_output, "output"))
        self._partial = PartialCorpus(rank_output, identity)
        rows = (row if "hit_step_limit" in row else with_current_names(row) for row in self._partial.rows())
        self._rows, self._stored = {}, {row["index"]: row for row in rows}

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Decode those prompts of this rank's batch that have no answer yet; judge the answers of the others anew."""
        limits = answer_limits(self.max_new_tokens, trainer, pl_module)
        pairs = list(zip(batch["index"].tolist(), examples_of(batch), strict=True))
        self._take_stored(pl_module, pairs)
        new = [(index, example) for index, example in pairs if index not in self._rows]
        examples, module = [example for _, example in new], cast("DMaxModule", pl_module)
        begin = self._own_seconds()
        with progress_bar(trainer, len(examples), "answers") as advance:
            answers = count_answers(
                self._meter, module, examples, self.decoder, limits, self.batch_size, progress=advance
            )
        rows = [
            answer_row(index, kept_columns(example.extra), answer, correct=bool(right))
            for (index, example), (answer, right) in zip(new, answers, strict=True)
        ]
        self._rows |= {row["index"]: row for row in rows}
        progress = self._partial.progress
        seconds = progress.seconds + self._own_seconds() - begin
        self._partial.append(rows, replace(progress, prompts=progress.prompts + len(rows), seconds=seconds))

    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gather the ranks' rows, write them and print the figures."""
        result = summarize(self._meter, self.decoder)
        rows = self._rows
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            dist.all_gather_object(gathered, rows)
            rows = {index: row for rank_rows in gathered for index, row in rank_rows.items()}
        if trainer.is_global_zero:
            with refusing(self.output, "output"):
                remove_unfinished(self._path.parent, self._path.name)
                write_rows(self._path, (rows[index] for index in sorted(rows)))
            table = format_table([(self.decoder.title, result)])
            sys.stdout.write(printable(f"\n{table}\n{self.output}: {len(rows)} answers\n"))
        trainer.strategy.barrier("predictions written")
        self._partial.discard()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Let others write the file."""
        self._lock.close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Let others write the file."""
        self._lock.close()

    def _own_seconds(self) -> float:
        """Return this rank's time; the sum over ranks would wait for others, which may have fewer batches."""
        return float(self._meter.tps.denominator)

    def _take_stored(self, module: L.LightningModule, pairs: list[tuple[int, Example]]) -> None:
        """Take the answers of an interrupted run to these prompts, judge them, and add them to the meter."""
        rows, examples = [], []
        for index, example in pairs:
            row = self._stored.get(index)
            if row is None:
                continue
            if row["prompt"] != example.prompt or columns_in(row) != kept_columns(example.extra):
                raise UserError(f"{self.output}: was begun with other prompts; delete {self._partial.record}")
            rows.append({**row, "correct": bool(example.check(row["response"]))})
            examples.append(example)
        if not rows:
            return
        self._rows |= {row["index"]: row for row in rows}
        answers = [
            SimpleNamespace(**{**row, "ends_with_eos": row["finished"] and not row.get("stopped", False)})
            for row in rows
        ]
        prompts = encode_prompts(cast("DMaxModule", module).tokenizer, [example.prompt for example in examples])
        seconds = self._partial.progress.seconds * len(rows) / len(self._stored)
        self._meter.update(answers, [row["correct"] for row in rows], [len(ids) for ids in prompts], seconds)
