"""The order of rows: a function of seed and epoch alone, divided among ranks without repeating a row."""

import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, SequentialSampler

from dmaxlit.data.mixture import Mixture
from dmaxlit.errors import UserError
from dmaxlit.randomness import stable_seed

_GROUPED = 50  # global batches that are sorted together, as in the sampler of transformers
_AT_ONCE = 4096  # row numbers; as Python's integers those of a whole corpus would take four times the memory


class RowSampler(DistributedSampler[Any]):
    """Row numbers of one rank.

    The global order of epoch e is one permutation, seeded by (seed, e); rank r of w takes every w-th row, beginning
    with row r. With ``batch_size`` rows per rank, the k-th batches of all ranks together are the rows that one process
    with batches of ``w * batch_size`` sees, and no row is repeated. When shuffled (training), all ranks also get the
    same number of batches: if the last global batch has fewer rows than there are ranks, those rows (at most w - 1)
    are left out of the epoch.

    It is a :class:`~torch.utils.data.DistributedSampler`, so that Lightning does not replace it and sets its epoch.

    Args:
        rows: Number of rows.
        batch_size: Rows in one rank's batch.
        num_replicas: Number of ranks, w.
        rank: This rank, r.
        shuffle: Permute the rows; otherwise they keep their order.
        seed: Seed of the permutations.
        even: Give all ranks the same number of batches, as training needs. Default: if shuffled.
        mixture: Which rows a shuffled epoch has; there are ``rows`` of them, and one that comes again has another
            number. Default: each row once.
    """

    #: Whether it yields the rows of each batch together.
    yields_batches = False

    def __init__(
        self,
        rows: int,
        batch_size: int,
        num_replicas: int = 1,
        rank: int = 0,
        shuffle: bool = True,
        seed: int = 0,
        even: bool | None = None,
        mixture: Mixture | None = None,
    ) -> None:
        super().__init__(range(rows), num_replicas=num_replicas, rank=rank, shuffle=shuffle, seed=seed)  # type: ignore[arg-type]
        ragged = rows % (batch_size * num_replicas)
        even = shuffle if even is None else even
        self.used = rows - ragged if even and ragged < num_replicas else rows
        self.rows, self.batch_size, self.mixture = rows, batch_size, mixture
        self.first_batch = 0

    def __len__(self) -> int:
        return len(range(self.rank, self.used, self.num_replicas))

    def __iter__(self) -> Iterator[int]:
        """Yield this rank's rows in the order of the current epoch, from ``first_batch`` on."""
        order = self._order()[: self.used][self.rank :: self.num_replicas][self.first_batch * self.batch_size :]
        for begin in range(0, len(order), _AT_ONCE):
            yield from order[begin : begin + _AT_ONCE].tolist()

    def position(self, batches: int) -> dict[str, int]:
        """Return how far an epoch has come, after some of this rank's batches; see :meth:`batches_until`."""
        return {"batches": batches, "rows_of_batch": self.batch_size * self.num_replicas}

    def batches_until(self, position: dict[str, int]) -> int:
        """Return the number of this rank's batches up to a position, which may be of batches of another size.

        Raises:
            UserError: If it is of batches of ``max_tokens``.
        """
        if "max_tokens" in position:
            raise UserError(f"max_tokens: expected {position['max_tokens']}, as in the run that is resumed, got none")
        here = self.batch_size * self.num_replicas
        rows = position["batches"] * position.get("rows_of_batch", here)
        return min(-(-rows // here), -(-len(self) // self.batch_size))

    def _order(self) -> Tensor:
        """Return all rows in the order of the current epoch, of all ranks."""
        if not self.shuffle:
            return torch.arange(self.rows)
        if self.mixture is not None:
            return self.mixture.order(self.seed, self.epoch)
        generator = torch.Generator().manual_seed(stable_seed("order", self.seed, self.epoch))
        return torch.randperm(self.rows, generator=generator)


class LengthGroupedSampler(RowSampler):
    """Row numbers of one rank, shuffled so that the rows of a global batch have similar lengths.

    Every 50 global batches of the shuffled order are sorted by length and cut into batches, and all batches of the
    epoch are shuffled, but for a last one with fewer rows. Like :class:`RowSampler`'s, the order depends on the seed,
    the epoch and the rows of a global batch alone.

    Args:
        lengths: ``[rows]`` tokens of each row.
        batch_size: Rows in one rank's batch.
        num_replicas: Number of ranks.
        rank: This rank.
        seed: Seed of the order.
        mixture: Which rows an epoch has. Default: each once.
    """

    def __init__(
        self,
        lengths: Tensor,
        batch_size: int,
        num_replicas: int = 1,
        rank: int = 0,
        seed: int = 0,
        mixture: Mixture | None = None,
    ) -> None:
        super().__init__(len(lengths), batch_size, num_replicas, rank, seed=seed, mixture=mixture)
        self._lengths = lengths

    def batches_until(self, position: dict[str, int]) -> int:
        """Return the number of this rank's batches up to a position.

        Raises:
            UserError: If it is of batches of another size, which have another order, or of ``max_tokens``.
        """
        here = self.batch_size * self.num_replicas
        if (there := position.get("rows_of_batch", here)) != here:
            raise UserError(
                f"batch_size: expected {there} rows over all ranks with group_by_length, as in the run that is "
                f"resumed, got {here}"
            )
        return super().batches_until(position)

    def _order(self) -> Tensor:
        order = super()._order()
        size = self.batch_size * self.num_replicas
        whole = self.rows - self.rows % size
        if not whole:
            return order
        batches = []
        for begin in range(0, whole, _GROUPED * size):
            rows = order[begin : min(begin + _GROUPED * size, whole)]
            by_length = rows[self._lengths[rows % self.rows].sort(descending=True, stable=True).indices]
            batches.append(by_length.view(-1, size))
        together = torch.cat(batches)
        generator = torch.Generator().manual_seed(stable_seed("batches", self.seed, self.epoch))
        shuffled = together[torch.randperm(len(together), generator=generator)]
        return torch.cat([shuffled.flatten(), order[whole:]])


class OrderedRowSampler(RowSampler, SequentialSampler):
    """Row numbers of one rank, in the same order in every epoch.

    It is a :class:`~torch.utils.data.SequentialSampler`, so that Lightning does not replace it under
    ``overfit_batches``.

    Args:
        rows: Number of rows.
        batch_size: Rows in one rank's batch.
        num_replicas: Number of ranks.
        rank: This rank.
        even: Give all ranks the same number of batches.
    """

    def __init__(self, rows: int, batch_size: int, num_replicas: int = 1, rank: int = 0, even: bool = False) -> None:
        RowSampler.__init__(self, rows, batch_size, num_replicas, rank, shuffle=False, even=even)


class ResumableLoader(DataLoader[Any]):
    """A loader that resumes in the middle of an epoch after a checkpoint.

    Lightning stores its state in checkpoints and restores it before the first batch. Nothing is drawn, and no worker
    is started, before the first batch is requested: Lightning makes the iterator before it sets the epoch.

    Args:
        dataset: The rows.
        sampler: The order of the rows, or of batches of them.
        **options: Further options of :class:`~torch.utils.data.DataLoader`.
    """

    def __init__(self, dataset: Dataset[Any], sampler: RowSampler, **options: Any) -> None:
        # A separate generator, because making an iterator draws a number; separate process groups for the workers,
        # because a signal to the whole group, such as Ctrl-C, would end workers that the current step still needs.
        defaults: dict[str, Any] = {"generator": torch.Generator(), "worker_init_fn": leave_process_group}
        batch_size: int | None = sampler.batch_size
        if sampler.yields_batches:
            dataset, batch_size = _Batches(dataset), None
        super().__init__(dataset, sampler=sampler, batch_size=batch_size, **{**defaults, **options})
        self._row_sampler = sampler
        self._num_batches = 0
        self._resume_state: dict[str, int] = {}

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Yield the batches of the current epoch; after :meth:`load_state_dict`, those not yet seen."""
        state, self._resume_state = self._resume_state, {}
        is_in_epoch = state.get("epoch") == self._row_sampler.epoch
        self._num_batches = self._row_sampler.batches_until(state) if is_in_epoch else 0
        self._row_sampler.first_batch = self._num_batches
        try:
            for batch in super().__iter__():
                self._num_batches += 1
                yield batch
        finally:
            self._row_sampler.first_batch = 0

    def state_dict(self) -> dict[str, int]:
        """Return the epoch, and how far it has come."""
        return {"epoch": self._row_sampler.epoch, **self._row_sampler.position(self._num_batches)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Resume from ``state`` when its epoch begins; its batches may have had another number of rows."""
        self._resume_state, self._num_batches = dict(state), self._row_sampler.batches_until(state)
        self._row_sampler.set_epoch(state["epoch"])


class _Batches(Dataset[Any]):
    """The rows of a data set, several at once."""

    def __init__(self, rows: Dataset[Any]) -> None:
        self._rows = rows

    def __getitem__(self, numbers: list[int]) -> list[Any]:
        return [self._rows[number] for number in numbers]


def leave_process_group(worker: int) -> None:
    """Let signals to the process group, such as Ctrl-C, not reach a loader's process."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
