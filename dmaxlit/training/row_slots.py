"""The place of a row among all rows of an optimiser step."""

from typing import Any

import lightning as L

from dmaxlit.data.sampling import RowSampler
from dmaxlit.data.token_batches import TokenBatchSampler


def row_slots(trainer: L.Trainer, rows: int, batch_idx: int) -> tuple[list[int], int]:
    """Return the index of each row of a micro-batch among all rows of its step, and the number of these.

    The rows of a step are those of its accumulated micro-batches, one after the other, and in each those of all ranks
    in turn, as :class:`~dmaxlit.data.sampling.RowSampler` divides them: with equal rows, the indices are those of one
    process with one large batch; also with batches of ``max_tokens``, one rank's behind the other's. Where a loader
    does not say how many rows it has, all its batches count as equal.

    Args:
        trainer: The trainer.
        rows: Number of rows of the micro-batch on this rank.
        batch_idx: Index of the micro-batch in its epoch.
    """
    world, rank, window = trainer.world_size, trainer.global_rank, trainer.accumulate_grad_batches
    first = batch_idx - batch_idx % window
    loader: Any = trainer.train_dataloader
    in_step = int(min(window, trainer.num_training_batches - first))
    if isinstance(sampler := getattr(loader, "sampler", None), TokenBatchSampler):
        return sampler.slots(batch_idx, first, in_step)
    batch_size = getattr(loader, "batch_size", None)
    of_batch = world * (batch_size if isinstance(batch_size, int) else rows)
    number = of_batch * in_step
    if isinstance(batch_size, int) and (in_epoch := _rows_of_epoch(loader, world)) is not None:
        number = min(number, in_epoch - first * of_batch)
    slots = [(batch_idx - first) * of_batch + row * world + rank for row in range(rows)]
    return slots, max(number, slots[-1] + 1 if slots else 1)


def _rows_of_epoch(loader: Any, world: int) -> int | None:
    sampler = getattr(loader, "sampler", None)
    if isinstance(sampler, RowSampler):
        return sampler.used
    try:
        return len(sampler) * world  # type: ignore[arg-type]
    except TypeError:  # of an iterable data set
        return None
