"""Stops before an update that would destroy the model."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor

from dmaxlit.backbone.sharding import local_tensor
from dmaxlit.callbacks._stop_signals import Stopped
from dmaxlit.callbacks.run_checkpoint import RunCheckpoint
from dmaxlit.errors import UserError
from dmaxlit.evaluation.validation_batches import is_dry_run
from dmaxlit.training.sharded_module import local_gradients

__all__ = ["FiniteGuard"]

_SHOWN = 8  # rows named


class FiniteGuard(L.Callback):
    """Stops training before the update if a loss or gradient of the step is not finite, on all ranks together.

    The message names step, views and rows: those that alone give such a loss, else all of the micro-batch. The weights
    are as they were after the step before, and so are the checkpoints. Under ``16-mixed`` only losses are looked at:
    there gradients overflow now and then, and the scaler leaves those steps out.

    It costs one pass over the gradients and one value read from the device a step, with the backward pass done.

    Args:
        enabled: False: let it happen.
    """

    def __init__(self, enabled: bool = True) -> None:
        super().__init__()
        self.enabled = enabled
        self._batches: list[Any] = []
        self._losses: list[Tensor] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin with a new step."""
        self._batches, self._losses = [], []

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep the micro-batch until the update it belongs to."""
        if self.enabled:
            self._batches.append(batch)

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        """Keep the loss."""
        if self.enabled:
            self._losses.append(loss.detach())

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Look at them, and at the gradients.

        Raises:
            UserError: If one is not finite.
        """
        if not self.enabled or not self._losses:
            return
        values = [torch.stack(self._losses).float().abs().amax()]
        gradients = local_gradients(optimizer)
        if getattr(trainer.precision_plugin, "scaler", None) is None and gradients:
            # The greatest entry: a sum of squares may overflow though every entry is finite.
            values.append(torch.nn.utils.get_total_norm(gradients, float("inf")).float())
        broken = (~torch.isfinite(torch.stack(values)).all()).float()
        if trainer.world_size > 1:
            broken = torch.as_tensor(trainer.strategy.reduce(broken, reduce_op="max"))
        if bool(broken):
            self._stop(trainer, pl_module)
        self._batches, self._losses = [], []

    def _stop(self, trainer: L.Trainer, module: Any) -> None:
        gradients = [(name, local_tensor(p.grad)) for name, p in module.named_parameters() if p.grad is not None]
        names = [name for name, gradient in gradients if not gradient.isfinite().all()]
        rows = [int(row) for batch in self._batches for row in batch["index"]]
        told: list[tuple[list[str], list[str], list[int]]] = [(self._causes(trainer, module), names, rows)]
        if trainer.world_size > 1:
            everyone: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(everyone, told[0])
            told = everyone
        if not trainer.is_global_zero:
            raise Stopped(0)
        found = [line for lines, _, _ in told for line in lines]
        if not found:
            broken = list(dict.fromkeys(name for _, names, _ in told for name in names))
            more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
            rows = sorted(row for _, _, rows in told for row in rows)
            found = [f"the gradient of {broken[0]}{more} for {_rows(trainer, rows)}"]
        kept = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, RunCheckpoint)]
        saved = kept[0].where() if kept and not is_dry_run(trainer) else "none"
        raise UserError(
            f"training: expected finite losses and gradients, got at step {trainer.global_step + 1} "
            f"{'; '.join(found)}. The step was not made; the last checkpoint is {saved}"
        )

    def _causes(self, trainer: L.Trainer, module: Any) -> list[str]:
        """Of each micro-batch of this rank with a loss that is not finite: its views and rows, in words."""
        found = []
        for batch, loss in zip(self._batches, self._losses, strict=True):
            if torch.isfinite(loss):
                continue
            rows = [int(row) for row in batch["index"]]
            views: list[str] = []
            # Sharded weights need every rank for a forward, and the other ranks may have nothing to look for.
            if isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy)):
                views = _broken_views(module, batch)
                alone = [
                    row
                    for place, row in enumerate(rows)
                    if _broken_views(module, {name: value[place : place + 1] for name, value in batch.items()})
                ]
                rows = alone or rows
            of = f" in view {' and '.join(views)}" if views else ""
            found.append(f"a loss of {float(loss)}{of} for {_rows(trainer, rows)}")
        return found


@torch.no_grad()
def _broken_views(module: Any, batch: dict[str, Tensor]) -> list[str]:
    clean = module.clean_batch(batch)
    losses = module.view_losses(clean, module.row_generator(batch, clean))
    return [loss.name for loss in losses if not torch.isfinite(loss.total)]


def _rows(trainer: L.Trainer, rows: list[int]) -> str:
    shown = rows[:_SHOWN]
    tell = getattr(getattr(trainer, "datamodule", None), "places", None)
    names = [f"{row} ({place})" for row, place in zip(shown, tell(shown), strict=True)] if tell else map(str, shown)
    more = f" and {len(rows) - len(shown)} more" if len(rows) > len(shown) else ""
    return f"row{'s' * (len(rows) > 1)} {', '.join(names)}{more} of the data"
