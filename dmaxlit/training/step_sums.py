"""Sums over the micro-batches and ranks of an optimiser step, and the means they give."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from dmaxlit.randomness import stable_seed


class StepSums:
    """Named pairs of a sum and the number of what was summed, which stay on the device until they are reduced."""

    def __init__(self) -> None:
        self._pairs: dict[str, Tensor] = {}

    def __bool__(self) -> bool:
        return bool(self._pairs)

    def add(self, name: str, total: Tensor, count: Tensor) -> None:
        """Add to a pair; both are scalars. Nothing is read from the device."""
        pair = torch.stack([total.detach().float(), count.to(total.device).float()])
        self._pairs[name] = self._pairs[name] + pair if name in self._pairs else pair

    def reduced(self, trainer: L.Trainer) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the pairs summed over all ranks, the same on each, and begin again.

        All ranks must call it. It takes two small reductions, none in a single process. Ranks may hold other names:
        they are exchanged then, which is slower.

        Args:
            trainer: The trainer whose ranks are meant.
        """
        pairs, self._pairs = self._pairs, {}
        if trainer.world_size > 1:
            names = _names_of_all_ranks(sorted(pairs), trainer)
            if not names:
                return {}
            nothing = torch.zeros(2, device=trainer.strategy.root_device, dtype=torch.float32)
            rows = torch.stack([pairs.get(name, nothing).to(nothing.device) for name in names])
            table: Any = trainer.strategy.reduce(rows, reduce_op="sum")
            pairs = dict(zip(names, table, strict=True))
        return {name: (pair[0], pair[1]) for name, pair in pairs.items()}


def means(pairs: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Return ``sum / number`` of each pair, float32 scalars; those of nothing are left out.

    Args:
        pairs: Result of :meth:`StepSums.reduced`. One value is read from the device.
    """
    if not pairs:
        return {}
    counts = torch.stack([count for _, count in pairs.values()]).tolist()
    return {
        name: total / number for (name, (total, number)), count in zip(pairs.items(), counts, strict=True) if count > 0
    }


def _names_of_all_ranks(names: list[str], trainer: L.Trainer) -> list[str]:
    """Return the names that any rank has, in the same order on each."""
    code = stable_seed(*names)
    codes = torch.tensor([code, -code], device=trainer.strategy.root_device)
    highest: Any = trainer.strategy.reduce(codes, reduce_op="max")
    high, low = highest.tolist()
    if high == -low:
        return names
    gathered: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(gathered, names)
    return sorted({name for rank_names in gathered for name in rank_names})
