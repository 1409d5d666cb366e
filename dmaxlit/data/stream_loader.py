"""A loader of streamed batches, which resumes at the row."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader

from dmaxlit.data.sampling import leave_process_group
from dmaxlit.data.streamed_batches import Delivery, StreamedBatches, first_state
from dmaxlit.errors import UserError

_REMEMBERED = 256  # batches whose rows are known by file and number


class StreamLoader:
    """The batches of one rank, whose number is not known before the epoch ends.

    Lightning stores its state in checkpoints and restores it before the first batch. The state is the same on all
    ranks, and holds for any number of ranks, loader processes and rows of a batch.

    Args:
        batches: The batches.
        num_workers: Number of processes that read and encode; with 0, it is this one.
        ahead: Batches that the caller takes before it uses them, and which the state does not count as seen.
    """

    def __init__(self, batches: StreamedBatches, num_workers: int = 0, ahead: int = 0) -> None:
        self.batch_size = batches.batch_size
        self.batch_sampler = SimpleNamespace(sampler=self)  # where Lightning looks for what has epochs
        self._batches, self._num_workers = batches, num_workers
        self._resume_state = first_state(0)
        self._states: deque[dict[str, Any]] = deque(maxlen=ahead + 1)  # behind the batches that the caller may use
        self._locations: deque[dict[int, str]] = deque(maxlen=_REMEMBERED)
        self._epoch = 0
        self._is_over = False

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration, from 0."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield the batches of the current epoch; after :meth:`load_state_dict`, those not yet seen.

        Raises:
            UserError: If a row cannot be read or used.
        """
        begin, self._resume_state = self._resume_state, {}
        begin = begin if begin.get("epoch") == self._epoch else first_state(self._epoch)
        self._states.clear()
        self._states.append(begin)
        self._is_over = False
        for delivery in self._deliveries(begin):
            for note in delivery.notes:
                rank_zero_info(note)
            if delivery.error:
                raise UserError(delivery.error)
            if delivery.batch is not None:
                self._states.append(delivery.state)
                self._locations.append(dict(zip(delivery.batch["index"].tolist(), delivery.locations, strict=True)))
                yield delivery.batch
        self._is_over = True

    def state_dict(self) -> dict[str, Any]:
        """Return where the batch begins that follows the last one used: behind an epoch's last, in the next epoch."""
        if self._is_over:  # Lightning may take the first batch of a resumed run before it sets the epoch
            return first_state(self._states[-1]["epoch"] + 1)
        return dict(self._states[0] if self._states else self._resume_state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from ``state`` when its epoch begins; its batches may have had another number of rows."""
        self._states.clear()
        self._is_over = False
        self._resume_state = dict(state)
        self._epoch = state["epoch"]

    def locations(self, indices: Sequence[int]) -> list[str]:
        """Return the file and row of sequences in the last few hundred batches; a question mark for others."""
        known = {index: location for batch in self._locations for index, location in batch.items()}
        return [known.get(index, "?") for index in indices]

    def _deliveries(self, begin: dict[str, Any]) -> Iterator[Delivery]:
        self._batches.begin = begin
        return iter(
            DataLoader(
                self._batches,
                batch_size=None,
                num_workers=self._num_workers,
                generator=torch.Generator(),  # making an iterator draws a number
                worker_init_fn=leave_process_group,
            )
        )
