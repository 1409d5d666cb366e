"""Decisions that all ranks take together."""

import lightning as L
import torch


def agreed(trainer: L.Trainer, *values: int) -> list[int]:
    """Return the largest of each value over all ranks, which all must call with as many values."""
    if trainer.world_size == 1:
        return list(values)
    largest = trainer.strategy.reduce(torch.tensor(values, device=trainer.strategy.root_device), reduce_op="max")
    return [int(value) for value in largest.tolist()]
