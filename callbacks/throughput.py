"""Speed and memory of training."""

import time
from typing import Any

import lightning as L
import torch
from torch import Tensor

from dmaxlit.callbacks._module import require_dmax_module
from dmaxlit.evaluation.memory import peak_memory
from dmaxlit.tokens import Role

__all__ = ["TrainingThroughput"]


class TrainingThroughput(L.Callback):
    """Logs ``throughput/tokens_per_second`` and ``throughput/peak_memory_mib``, every ``log_every_n_steps`` steps.

    The speed is ``tokens of the sequences (prompt and response, no padding) / wall-clock seconds`` since it was last
    logged, over all ranks. The time includes loading of data and updates of the weights, but not validation. Tokens are
    summed on the device, so that the host waits for it only when something is logged. The memory is the peak since
    training began, of the rank that used most: as allocated by torch on a GPU, of the whole process on a CPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self._tokens = torch.zeros((), dtype=torch.long)
        self._begin = 0.0
        self._paused = 0.0
        self._logged_step = -1

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse another module, whose batches may have no roles."""
        require_dmax_module(self, pl_module)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock: a run resumed within an epoch does not start one. Forget an earlier run."""
        self._restart(pl_module.device)
        self._logged_step = -1

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._restart(pl_module.device)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock."""
        self._paused = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restart the clock from where it stopped."""
        self._begin += time.perf_counter() - self._paused

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: dict[str, Tensor], batch_idx: int
    ) -> None:
        """Count the tokens of the batch; log at the steps at which the trainer logs."""
        self._tokens += (batch["roles"] != Role.PAD).sum()
        step, every = trainer.global_step, int(getattr(trainer, "log_every_n_steps", 0))
        if every < 1 or step % every != 0 or step in (0, self._logged_step):
            return
        tokens = int(self._tokens)
        rate = tokens / max(time.perf_counter() - self._begin, 1e-9)
        pl_module.log(
            "throughput/tokens_per_second", rate, on_step=True, on_epoch=False, sync_dist=True, reduce_fx="sum"
        )
        memory = peak_memory(pl_module.device)
        if memory is not None:
            pl_module.log(
                "throughput/peak_memory_mib", memory, on_step=True, on_epoch=False, sync_dist=True, reduce_fx="max"
            )
        self._restart(pl_module.device)
        self._logged_step = step

    def _restart(self, device: torch.device) -> None:
        self._tokens = torch.zeros((), dtype=torch.long, device=device)
        self._begin = time.perf_counter()
