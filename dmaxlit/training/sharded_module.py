"""Hooks of a module whose model may be sharded, and the gradients that a process holds then."""

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, ModelParallelStrategy, SingleDeviceStrategy
from torch import Tensor

from dmaxlit.backbone.denoiser import Denoiser
from dmaxlit.backbone.sharding import local_tensor, shard_denoiser
from dmaxlit.errors import UserError


def local_gradients(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return the gradients of an optimiser's parameters; of sharded ones this process's shard, if it has any."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    return [shard for shard in map(local_tensor, gradients) if shard.numel()]


def prepare_backbone(module: L.LightningModule, backbone: Denoiser) -> None:
    """Shard the model if the trainer's strategy does, and read its weights if that was deferred.

    To be called in ``configure_model``.

    Args:
        module: The module that the trainer is preparing.
        backbone: Its denoiser.

    Raises:
        UserError: If the strategy is none that the module trains with, or splits single matrices over processes,
            forwards are to be compiled, or the model has an auxiliary model.
    """
    if module.trainer.training:
        _check_strategy(module.trainer.strategy)
    mesh, device = module.device_mesh, torch.device("cpu")
    if mesh is not None:
        if mesh["tensor_parallel"].size() > 1:
            raise UserError(
                "strategy: expected every process to share the data, got tensor_parallel_size "
                f"{mesh['tensor_parallel'].size()} (no matrix or expert is computed in parts); use "
                "dmaxlit.training.fsdp.FSDP2Strategy"
            )
        if backbone.auxiliary is not None:
            raise UserError(
                "strategy: expected one that does not shard the model, for it has an auxiliary model "
                "(without the folder auxiliary/ of its export it has none)"
            )
        if backbone.compiles_training:
            raise UserError("compile: expected false under a strategy that shards the model")
        device = module.trainer.strategy.root_device
        compute_dtype = torch.bfloat16 if module.trainer.precision == "bf16-mixed" else None
        shard_denoiser(backbone, backbone.model, mesh["data_parallel"], compute_dtype)
    backbone.load_deferred(device)


def _check_strategy(strategy: object) -> None:
    known = (SingleDeviceStrategy, DDPStrategy, ModelParallelStrategy)
    # DeepSpeed's is a DDPStrategy, but keeps gradients where they are not found to be divided by the step's tokens.
    if not isinstance(strategy, known) or isinstance(strategy, DeepSpeedStrategy):
        raise UserError(
            "strategy: expected auto, ddp, or dmaxlit.training.fsdp.FSDP2Strategy to share the model, got "
            f"{type(strategy).__name__}, which training does not support"
        )
