"""Helpers of the callbacks that decode: a rank's examples, the list of decoders, meters and what ends an answer."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import lightning as L

from dmaxlit.errors import UserError
from dmaxlit.evaluation.evaluate import DecoderSpec, default_budget
from dmaxlit.evaluation.labels import check_titles
from dmaxlit.evaluation.limits import Limits
from dmaxlit.metrics import DecodeMeter
from dmaxlit.tasks import Example


def check_decoders(decoders: Sequence[DecoderSpec]) -> list[DecoderSpec]:
    """Return the decoders as a list.

    Raises:
        UserError: If there are none, or two share a label, or the name of the files that a logger writes for it.
    """
    if not decoders:
        raise UserError("decoders: expected at least one, got an empty list")
    tags = [spec.tag for spec in decoders]
    repeated = sorted({tag for tag in tags if tags.count(tag) > 1})
    if repeated:
        raise UserError(f"decoders: expected a different label for each, got {repeated[0]!r} twice")
    check_titles(tags, "decoders")
    return list(decoders)


def is_dry_run(trainer: L.Trainer) -> bool:
    """Return whether the trainer runs with ``fast_dev_run``."""
    return bool(getattr(trainer, "fast_dev_run", False))


def make_meter(module: Any) -> DecodeMeter:
    """Return a new meter, on a device where collectives between ranks are possible."""
    meter = DecodeMeter(module.backbone.block_length)
    return meter.to(module.device) if module.device.type == "cuda" else meter


def examples_of(batch: Any) -> list[Example]:
    """Return the examples of a validation or test batch.

    Raises:
        UserError: If the batch has no examples.
    """
    if not isinstance(batch, Mapping) or "examples" not in batch:
        got = f"a batch of {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else type(batch).__name__
        raise UserError(f"validation: expected batches with examples to decode, got {got}")
    return list(batch["examples"])


def examples_in(loaders: Any, limit: int | float = 1.0) -> list[Example]:
    """Return the examples of one or several validation or test loaders.

    Args:
        loaders: The loader, or a list of some.
        limit: The trainer's limit of each one's batches: a number, or a share of them.

    Raises:
        UserError: If a batch has no examples.
    """
    examples = []
    for loader in loaders if isinstance(loaders, (list, tuple)) else [loaders]:
        # The length of a stream is not known.
        number = limit if isinstance(limit, int) else None if limit == 1 else int(len(loader) * limit)
        examples += [example for batch in islice(loader, number) for example in examples_of(batch)]
    return examples


def rank_subset(examples: Sequence[Example], total: int, trainer: L.Trainer) -> list[Example]:
    """Return those of this rank's examples that are among the first ``total`` of all ranks.

    Rank r of w holds the examples r, r + w, r + 2w and so on of the data set.
    """
    return list(examples[: len(range(trainer.global_rank, total, trainer.world_size))])


def answer_limits(max_new_tokens: int | None, trainer: L.Trainer, module: Any) -> Limits:
    """Return what ends an answer: the budget, and the stop texts of the data module's task.

    Args:
        max_new_tokens: The budget; None for that of the data module's task, or else of the model's task.
        trainer: The trainer.
        module: The model.
    """
    task: Any = getattr(getattr(trainer, "datamodule", None), "task", None)
    if max_new_tokens is None:
        max_new_tokens = default_budget(module) if task is None else task.max_new_tokens
    # The task of a data module of one's own may be no Task.
    return Limits(max_new_tokens, tuple(getattr(task, "stop", ())))
