"""Sharding a model over all processes: Lightning's strategy for FSDP2 with a single group."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from dmaxlit.checkpoints.lightning_internals import SHARDED_REST_FILE, share_among_all
from dmaxlit.checkpoints.sharded import is_sharded_checkpoint, read_shards
from dmaxlit.errors import UserError, reason_of
from dmaxlit.files import sync, system_error

_TIMEOUT = timedelta(minutes=30)


class FSDP2Strategy(ModelParallelStrategy):
    """Shards parameters, gradients and optimiser state over all processes (FSDP2, ``fully_shard``).

    ``precision: bf16-mixed`` keeps the shards in the model's own type, float32 by default, and gathers and computes in
    bfloat16. Checkpoints are folders to which each rank writes its shards. ``dmaxlit export`` and ``dmaxlit.load``
    read them, and training resumes from them with any number of processes.

    Args:
        save_distributed_checkpoint: Each rank writes its shards. False: rank zero gathers everything in one file.
        process_group_backend: Backend of torch.distributed. Default: nccl on GPUs, gloo on CPUs.
        timeout: Longest duration of a collective.
    """

    def __init__(
        self,
        save_distributed_checkpoint: bool = True,
        process_group_backend: str | None = None,
        timeout: timedelta = _TIMEOUT,
    ) -> None:
        super().__init__(1, 1, save_distributed_checkpoint, process_group_backend, timeout)

    def setup_environment(self) -> None:
        """Start the processes; all of them share the model."""
        share_among_all(self)
        super().setup_environment()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint, each rank its shards, and force it to the disk.

        Raises:
            UserError: If a rank cannot write its shards, for instance because the disk is full.
        """
        path = Path(self.broadcast(filepath))
        rest = path / SHARDED_REST_FILE
        try:
            if self.is_global_zero and rest.is_file():
                rest.unlink()  # without it the folder is not a checkpoint, until all shards are new
            super().save_checkpoint(checkpoint, path, storage_options)
            if self.is_global_zero and rest.is_file():
                sync(rest)
                sync(path)
        except CheckpointException as error:  # the errors of all ranks, with tracebacks
            raise _write_error(path, next(iter(error.failures.values()))[0]) from error
        except (OSError, RuntimeError) as error:
            cause = system_error(error)
            if cause is None:
                raise
            raise _write_error(path, cause) from error

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Load weights and optimiser, each rank its shards, and return the rest; nothing that is read is executed."""
        path = Path(self.broadcast(str(checkpoint_path)))
        if not is_sharded_checkpoint(path):
            return super().load_checkpoint(path, weights_only=True)
        module = self.lightning_module
        assert module is not None, "the trainer has connected the module"
        state: dict[str, Any] = {"state_dict": get_model_state_dict(module)}
        read_shards(state, path)
        module.load_state_dict(state["state_dict"], strict=module.strict_loading)
        for number, optimizer in enumerate(self.optimizers):
            name = f"optimizer_{number}"
            optimizer_state: Mapping[str, Any] = {name: get_optimizer_state_dict(module, optimizer)}
            read_shards(dict(optimizer_state), path)
            set_optimizer_state_dict(
                module, optimizer, optimizer_state[name], options=StateDictOptions(cpu_offload=True)
            )
        rest: dict[str, Any] = torch.load(path / SHARDED_REST_FILE, weights_only=True)
        return rest


def _write_error(path: str | Path, error: BaseException) -> UserError:
    return UserError(f"checkpoint: cannot write {str(path)!r} ({reason_of(error)})")
