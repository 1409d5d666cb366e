"""Stops training before an update that would destroy the model."""

from collections.abc import Mapping
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
from dmaxlit.module import DMaxModule
from dmaxlit.training.row_slots import row_slots
from dmaxlit.training.sharded_module import local_gradients

__all__ = ["FiniteGuard"]

_MAX_NAMED_ROWS = 8


class FiniteGuard(L.Callback):
    """Stops training before the update if a loss or gradient of the step is not finite, on all ranks together.

    The message names the step, the views and the rows: those whose loss is not finite on their own, or else all rows of
    the micro-batch. Weights and checkpoints remain those of the previous step. Under ``16-mixed`` only losses are
    checked: there, gradients overflow now and then, and the scaler skips those steps.

    After each backward pass it costs one pass over the gradients and one value read from the device.

    Args:
        enabled: False to continue with such losses and gradients.
    """

    def __init__(self, enabled: bool = True) -> None:
        super().__init__()
        self.enabled = enabled
        self._batch: tuple[int, Any] = (0, None)
        self._losses: list[tuple[int, Any, Tensor]] = []  # index, micro-batch and loss

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start with a new step."""
        self._losses = []

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep the micro-batch until its loss is known."""
        if self.enabled:
            self._batch = batch_idx, batch

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        """Keep the loss and its micro-batch until the update; a micro-batch that is skipped has none."""
        if self.enabled:
            self._losses.append((*self._batch, loss.detach()))

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Check the losses and gradients of the step.

        Raises:
            UserError: If one is not finite.
        """
        if not self.enabled or not self._losses:
            return
        values = [torch.stack([loss for _, _, loss in self._losses]).float().abs().amax()]
        gradients = local_gradients(optimizer)
        if getattr(trainer.precision_plugin, "scaler", None) is None and gradients:
            # The largest entry: a sum of squares may overflow although every entry is finite.
            values.append(torch.nn.utils.get_total_norm(gradients, float("inf")).float())
        broken = (~torch.isfinite(torch.stack(values)).all()).float()
        if trainer.world_size > 1:
            broken = torch.as_tensor(trainer.strategy.reduce(broken, reduce_op="max"))
        if bool(broken):
            self._stop(trainer, pl_module)
        self._losses = []

    def _stop(self, trainer: L.Trainer, module: Any) -> None:
        gradients = [(name, local_tensor(p.grad)) for name, p in module.named_parameters() if p.grad is not None]
        names = [name for name, gradient in gradients if not gradient.isfinite().all()]
        rows = [row for _, batch, _ in self._losses for row in _rows_of(batch)]
        reports: list[tuple[list[str], list[str], list[int]]] = [(self._causes(trainer, module), names, rows)]
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, reports[0])
            reports = gathered
        if not trainer.is_global_zero:
            raise Stopped(0)
        causes = [cause for rank_causes, _, _ in reports for cause in rank_causes]
        if not causes:
            parameters = list(dict.fromkeys(name for _, names, _ in reports for name in names))
            more = f" and {len(parameters) - 1} more" if len(parameters) > 1 else ""
            rows = sorted(row for _, _, rows in reports for row in rows)
            causes = [f"the gradient of {parameters[0]}{more} for {_describe_rows(trainer, rows)}"]
        callbacks = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, RunCheckpoint)]
        checkpoint = callbacks[0].where() if callbacks and not is_dry_run(trainer) else "none"
        raise UserError(
            f"training: expected finite losses and gradients, got at step {trainer.global_step + 1} "
            f"{'; '.join(causes)}. The step was not taken; the last checkpoint is {checkpoint}"
        )

    def _causes(self, trainer: L.Trainer, module: Any) -> list[str]:
        """Describe the views and rows of each micro-batch of this rank whose loss is not finite."""
        causes = []
        for batch_idx, batch, loss in self._losses:
            if torch.isfinite(loss):
                continue
            rows = _rows_of(batch)
            views: list[str] = []
            # A forward of sharded weights needs every rank, and the losses of the other ranks may be finite.
            if isinstance(module, DMaxModule) and isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy)):
                # A row alone draws what it drew in its batch only in the place it had there.
                slots, num_slots = row_slots(trainer, len(rows), batch_idx)
                views = _broken_views(module, batch, slots, num_slots)
                alone = [
                    row
                    for index, row in enumerate(rows)
                    if _broken_views(
                        module,
                        {name: value[index : index + 1] for name, value in batch.items()},
                        slots[index : index + 1],
                        num_slots,
                    )
                ]
                rows = alone or rows
            in_views = f" in view {' and '.join(views)}" if views else ""
            causes.append(f"a loss of {float(loss)}{in_views} for {_describe_rows(trainer, rows)}")
        return causes


@torch.no_grad()
def _broken_views(module: Any, batch: dict[str, Tensor], slots: list[int], num_slots: int) -> list[str]:
    clean = module.clean_batch(batch)
    losses = module.view_losses(clean, module.row_generator(batch, clean, (slots, num_slots)))
    return [loss.name for loss in losses if not torch.isfinite(loss.total)]


def _rows_of(batch: Any) -> list[int]:
    """Return the numbers of a batch's rows; none for a batch of another module, which has no ``index``."""
    return [int(row) for row in batch.get("index", ())] if isinstance(batch, Mapping) else []


def _describe_rows(trainer: L.Trainer, rows: list[int]) -> str:
    if not rows:
        return "a micro-batch"
    named = rows[:_MAX_NAMED_ROWS]
    locate = getattr(getattr(trainer, "datamodule", None), "places", None)
    names = [f"{row} ({line})" for row, line in zip(named, locate(named), strict=True)] if locate else map(str, named)
    more = f" and {len(rows) - len(named)} more" if len(rows) > len(named) else ""
    return f"row{'s' * (len(rows) > 1)} {', '.join(names)}{more} of the data"
