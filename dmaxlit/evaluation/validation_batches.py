"""What decoding callbacks share: which examples a rank works on, with which decoders, and how long an answer may be."""

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L

from dmaxlit.errors import UserError
from dmaxlit.evaluation.evaluate import DecoderSpec, default_budget
from dmaxlit.metrics import DecodeMeter
from dmaxlit.tasks import Example

__all__ = ["answer_budget", "check_decoders", "examples_of", "is_dry_run", "make_meter", "rank_subset"]


def check_decoders(decoders: Sequence[DecoderSpec]) -> list[DecoderSpec]:
    """The decoders, refused where there are none or two share a label.

    Raises:
        UserError: If so.
    """
    if not decoders:
        raise UserError("decoders: expected at least one, got an empty list")
    tags = [spec.tag for spec in decoders]
    twice = sorted({tag for tag in tags if tags.count(tag) > 1})
    if twice:
        raise UserError(f"decoders: expected a label of its own for each, got {twice[0]!r} twice")
    return list(decoders)


def is_dry_run(trainer: L.Trainer) -> bool:
    """Whether the trainer runs with ``fast_dev_run``."""
    return bool(getattr(trainer, "fast_dev_run", False))


def make_meter(module: Any) -> DecodeMeter:
    """A meter where the ranks' collectives can reach it."""
    meter = DecodeMeter(module.backbone.block_length)
    return meter.to(module.device) if module.device.type == "cuda" else meter


def examples_of(batch: Any) -> list[Example]:
    """The examples of a validation or test batch.

    Raises:
        UserError: If it has none.
    """
    if not isinstance(batch, Mapping) or "examples" not in batch:
        got = f"a batch of {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else type(batch).__name__
        raise UserError(f"validation: expected batches with examples to decode, got {got}")
    return list(batch["examples"])


def rank_subset(examples: Sequence[Example], total: int, trainer: L.Trainer) -> list[Example]:
    """The part of this rank's examples that belongs to the first ``total`` of all ranks.

    Rank r of w holds the examples r, r + w, r + 2w and so on of the data set.
    """
    return list(examples[: len(range(trainer.global_rank, total, trainer.world_size))])


def answer_budget(given: int | None, trainer: L.Trainer, module: Any) -> int:
    """Budget of tokens for an answer: what was given, else the data's task's, else the model's task's."""
    if given is not None:
        return given
    task = getattr(getattr(trainer, "datamodule", None), "task", None)
    return int(task.max_new_tokens) if task is not None else default_budget(module)
