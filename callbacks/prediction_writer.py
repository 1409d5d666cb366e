"""Answers to a file: what ``predict`` leaves behind."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import lightning as L
import torch.distributed as dist

from dmaxlit.callbacks.display import progress_bar
from dmaxlit.callbacks.shares import answer_budget, check_at_least, examples_of, make_meter
from dmaxlit.errors import UserError
from dmaxlit.evaluation import DecoderSpec, count_answers, format_table, summarize

if TYPE_CHECKING:
    from dmaxlit.module import DMaxModule

__all__ = ["PredictionWriter"]


class PredictionWriter(L.Callback):
    """Decodes the prompts of ``predict`` and writes one JSON object for each, in their order.

    A row holds ``index``, ``prompt``, ``response``, ``correct`` (the checker's verdict), ``num_tokens``,
    ``num_forwards``, ``finished`` and ``capped``. Ranks share the prompts; rank zero writes.

    Args:
        output: File to write, replaced if it exists.
        decoder: The decoder.
        max_new_tokens: Budget of tokens for an answer, at least 1. Default: the task's.
        batch_size: Rows that share a forward, at least 1.

    Raises:
        UserError: For a setting out of range; when ``predict`` starts, if the output cannot be written.
    """

    def __init__(
        self, output: str, decoder: DecoderSpec, max_new_tokens: int | None = None, batch_size: int = 64
    ) -> None:
        super().__init__()
        check_at_least(1, max_new_tokens=max_new_tokens, batch_size=batch_size)
        self.output, self.decoder = Path(output), decoder
        self.max_new_tokens, self.batch_size = max_new_tokens, batch_size
        self._rows: dict[int, dict[str, Any]] = {}
        self._meter: Any = None

    def on_predict_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin with nothing, in a folder that exists."""
        self._rows, self._meter = {}, make_meter(pl_module)
        try:
            self.output.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"output: cannot write {str(self.output)!r} ({error.strerror})") from error
        if self.output.is_dir():
            raise UserError(f"output: expected a file to write, got the folder {str(self.output)!r}")

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Decode this rank's batch."""
        budget = answer_budget(self.max_new_tokens, trainer, pl_module)
        examples, module = examples_of(batch), cast("DMaxModule", pl_module)
        with progress_bar(trainer, len(examples), "answers") as advance:
            answers = count_answers(
                self._meter, module, examples, self.decoder, budget, self.batch_size, progress=advance
            )
        for index, (answer, right) in zip(batch["index"].tolist(), answers, strict=True):
            self._rows[index] = {"index": index, **answer.to_dict(), "correct": bool(right)}

    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gather the ranks' rows, write them and print the figures."""
        result = summarize(self._meter, self.decoder)
        rows = self._rows
        if trainer.world_size > 1:
            shares: list[Any] = [None] * trainer.world_size
            dist.all_gather_object(shares, rows)
            rows = {index: row for share in shares for index, row in share.items()}
        if trainer.is_global_zero:
            self.output.write_text("".join(json.dumps(rows[index]) + "\n" for index in sorted(rows)))
            sys.stdout.write(f"\n{format_table([(self.decoder.title, result)])}\n{self.output}: {len(rows)} answers\n")
