"""The order of rows: a function of seed and epoch alone, shared out to ranks without a repeated row."""

import os
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from dmaxlit.randomness import stable_seed

__all__ = ["ResumableLoader", "RowSampler"]


class RowSampler(DistributedSampler[Any]):
    """Row numbers of one rank.

    The global order of epoch e is one permutation by (seed, e); rank r of w takes every w-th row from r on. So with
    ``batch_size`` rows a rank, the k-th batches of all ranks together are the rows one process with batches of
    ``w * batch_size`` sees, and no row comes twice. When shuffled (training) all ranks also get as many batches: if the
    last global batch had fewer rows than there are ranks, those (at most w - 1) sit out the epoch.

    It is a :class:`~torch.utils.data.DistributedSampler`, so Lightning leaves it in place and tells it the epoch.

    Args:
        rows: Number of rows.
        batch_size: Rows of a rank's batch.
        num_replicas: Number of ranks, w.
        rank: This rank, r.
        shuffle: Permute the rows; otherwise they come in order.
        seed: Seed of the permutations.
    """

    def __init__(
        self, rows: int, batch_size: int, num_replicas: int = 1, rank: int = 0, shuffle: bool = True, seed: int = 0
    ) -> None:
        super().__init__(range(rows), num_replicas=num_replicas, rank=rank, shuffle=shuffle, seed=seed)  # type: ignore[arg-type]
        ragged = rows % (batch_size * num_replicas)
        self.used = rows - ragged if shuffle and ragged < num_replicas else rows
        self.rows, self.batch_size = rows, batch_size
        self.first_batch = 0

    def __len__(self) -> int:
        return len(range(self.rank, self.used, self.num_replicas))

    def __iter__(self) -> Iterator[int]:
        """This rank's rows in the order of the present epoch, from ``first_batch`` on."""
        order = list(range(self.rows))
        if self.shuffle:
            generator = torch.Generator().manual_seed(stable_seed("order", self.seed, self.epoch))
            order = torch.randperm(self.rows, generator=generator).tolist()
        return iter(order[: self.used][self.rank :: self.num_replicas][self.first_batch * self.batch_size :])


class ResumableLoader(DataLoader[Any]):
    """A loader that goes on in the middle of an epoch after a checkpoint.

    Lightning keeps its state in checkpoints and restores it before the first batch. Nothing is drawn, and no worker
    started, before the first batch is asked for: Lightning makes the iterator before it says which epoch it is.

    Args:
        dataset: The rows.
        sampler: Their order.
        **options: Further options of :class:`~torch.utils.data.DataLoader`.
    """

    def __init__(self, dataset: Dataset[Any], sampler: RowSampler, **options: Any) -> None:
        # Of their own: a generator, since making an iterator draws a number, and process groups for the workers, since
        # a signal to the whole group, such as Ctrl-C, would end those that the step begun still needs.
        own: dict[str, Any] = {"generator": torch.Generator(), "worker_init_fn": _leave_process_group}
        super().__init__(dataset, sampler=sampler, batch_size=sampler.batch_size, **{**own, **options})
        self._rows = sampler
        self._done = 0
        self._resume: dict[str, int] = {}

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Batches of the present epoch; after :meth:`load_state_dict`, those not yet seen."""
        resume, self._resume = self._resume, {}
        self._done = resume["batches"] if resume.get("epoch") == self._rows.epoch else 0
        self._rows.first_batch = self._done
        try:
            for batch in super().__iter__():
                self._done += 1
                yield batch
        finally:
            self._rows.first_batch = 0

    def state_dict(self) -> dict[str, int]:
        """The epoch, and how many of its batches were given."""
        return {"epoch": self._rows.epoch, "batches": self._done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from ``state`` when its epoch comes."""
        self._resume, self._done = dict(state), state["batches"]
        self._rows.set_epoch(state["epoch"])


def _leave_process_group(worker: int) -> None:
    os.setpgid(0, 0)
