"""How fast training goes."""

import time
from typing import Any

import lightning as L
import torch
from torch import Tensor

from dmaxlit.tokens import Role

__all__ = ["TrainingThroughput"]


class TrainingThroughput(L.Callback):
    """Logs ``throughput/tokens_per_second`` of training, every ``log_every_n_steps`` steps.

    ``tokens of the rows (prompt and response, no padding) / wall-clock seconds`` since it was last logged, over all
    ranks. Loading data and updating the weights are part of it, validation is not. Tokens are added up on the device,
    which is waited for only when there is something to log.
    """

    def __init__(self) -> None:
        super().__init__()
        self._tokens = torch.zeros((), dtype=torch.long)
        self._begin = 0.0
        self._paused = 0.0
        self._logged_step = -1

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock: a run that goes on within an epoch does not begin one."""
        self._restart(pl_module.device)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._restart(pl_module.device)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock."""
        self._paused = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let the clock run on from where it stopped."""
        self._begin += time.perf_counter() - self._paused

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: dict[str, Tensor], batch_idx: int
    ) -> None:
        """Count the batch's tokens; log at the steps at which the trainer logs."""
        self._tokens += (batch["roles"] != Role.PAD).sum()
        step, every = trainer.global_step, int(getattr(trainer, "log_every_n_steps", 0))
        if every < 1 or step % every != 0 or step in (0, self._logged_step):
            return
        tokens = int(self._tokens)
        rate = tokens / max(time.perf_counter() - self._begin, 1e-9)
        pl_module.log(
            "throughput/tokens_per_second", rate, on_step=True, on_epoch=False, sync_dist=True, reduce_fx="sum"
        )
        self._restart(pl_module.device)
        self._logged_step = step

    def _restart(self, device: torch.device) -> None:
        self._tokens = torch.zeros((), dtype=torch.long, device=device)
        self._begin = time.perf_counter()
