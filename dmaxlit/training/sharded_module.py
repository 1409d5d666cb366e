"""A module whose model may be spread over processes: put in place before training, put together to decode."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from dmaxlit.backbone.sharding import unsharded
from dmaxlit.errors import UserError

if TYPE_CHECKING:
    from dmaxlit.backbone.denoiser import Denoiser

__all__ = ["Shareable", "local_gradients", "local_tensor"]


def local_gradients(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The gradients of an optimiser's parameters; of sharded ones the part that this process holds, if any."""
    found = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    return [part for part in map(local_tensor, found) if part.numel()]


def local_tensor(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: all, unless it is sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class Shareable:
    """The part of :class:`dmaxlit.DMaxModule` that knows of strategies which shard. Needs its ``backbone``."""

    if TYPE_CHECKING:
        backbone: Denoiser
        _device_mesh: Any
        trainer: Any

    def configure_model(self) -> None:
        """Shard the model if the strategy does, and read its weights if that was deferred."""
        mesh, device, compute_dtype = None, torch.device("cpu"), None
        if self._device_mesh is not None:
            if self._device_mesh["tensor_parallel"].size() > 1:
                raise UserError(
                    "strategy: expected every process to share the data, got tensor_parallel_size "
                    f"{self._device_mesh['tensor_parallel'].size()}; use dmaxlit.training.fsdp.FSDP2Strategy"
                )
            mesh, device = self._device_mesh["data_parallel"], self.trainer.strategy.root_device
            compute_dtype = torch.bfloat16 if self.trainer.precision == "bf16-mixed" else None
        self.backbone.shard_and_load(mesh, device, compute_dtype)

    def unsharded(self) -> AbstractContextManager[None]:
        """A context in which ranks may decode independently, also a sharded model; every rank must enter it."""
        return unsharded(self.backbone)

    def on_validation_epoch_start(self) -> None:
        """Put a sharded model together, so that callbacks may decode."""
        self._decoding = ExitStack()
        self._decoding.enter_context(self.unsharded())

    def on_validation_epoch_end(self) -> None:
        """Share it out again."""
        self._decoding.close()

    on_test_epoch_start = on_predict_epoch_start = on_validation_epoch_start
    on_test_epoch_end = on_predict_epoch_end = on_validation_epoch_end
