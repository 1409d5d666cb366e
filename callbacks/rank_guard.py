"""Stopping a run where one of its ranks has died."""

import os
import sys
import warnings
from typing import Any

import lightning as L

from dmaxlit.checkpoints.lightning_internals import main_address
from dmaxlit.errors import DMaxWarning, UserError, printable, reason_of
from dmaxlit.training.rank_connections import RankConnections

__all__ = ["RankGuard"]

_SECONDS = 2.0  # between an error that a dead rank causes in a collective, and the news of its death


class RankGuard(L.Callback):
    """Stops all ranks of ``fit`` within seconds, with one line that says which, where one has died or raised an error.

    Otherwise they would wait for it in a collective, with NCCL until its timeout. What is not a death, such as a
    process that hangs, is left to that timeout: ``--trainer.strategy.timeout`` of ``DDPStrategy`` and
    :class:`~dmaxlit.training.fsdp.FSDP2Strategy`, half an hour by default.

    It does nothing in a run of one rank.
    """

    def __init__(self) -> None:
        super().__init__()
        self._watch: RankConnections | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Begin to watch."""
        if stage != "fit" or trainer.world_size == 1:
            return
        strategy: Any = trainer.strategy
        try:
            self._watch = RankConnections(
                trainer.global_rank, trainer.world_size, main_address(strategy), strategy.broadcast, self._stop
            )
        except OSError as error:
            rank = trainer.global_rank
            problem = f"rank {rank} cannot {'reach rank 0' if rank else 'open a port'} ({reason_of(error)})"
            warnings.warn(
                f"{problem}: the death of a rank may be noticed only after the strategy's timeout",
                category=DMaxWarning,
                stacklevel=2,
            )

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Stop if the error comes from a rank that has died; otherwise tell the others of it."""
        if self._watch is None:
            return
        is_own = isinstance(exception, (SystemExit, KeyboardInterrupt, UserError))
        if not is_own and (news := self._watch.news(_SECONDS)):
            self._stop(news)
        leaves_with_others = isinstance(exception, (SystemExit, KeyboardInterrupt))
        self._watch.end("" if leaves_with_others else f"{type(exception).__name__}: {reason_of(exception)}")

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """End the watch."""
        if self._watch is not None:
            self._watch.end()
            self._watch = None

    def _stop(self, news: str) -> None:
        """End this process at once: its main thread may be waiting where no exception reaches it."""
        assert self._watch is not None
        sys.stdout.flush()
        stops = f"rank {self._watch.rank} stops; the same command goes on from the last checkpoint"
        sys.stderr.write(printable(f"error: {news}; {stops}\n"))
        sys.stderr.flush()
        os._exit(1)
