"""Sharding a model over all processes: Lightning's strategy for FSDP2 with a single group."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_warn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_saver import async_save, save

from dmaxlit.checkpoints.lightning_internals import SHARDED_REST_FILE, share_among_all
from dmaxlit.checkpoints.part_checksums import ChecksumWriter
from dmaxlit.checkpoints.plain_data import refuse_other_objects
from dmaxlit.checkpoints.sharded import check_shards, is_sharded_checkpoint, read_shards
from dmaxlit.errors import DMaxWarning, UserError, reason_of
from dmaxlit.files import staged_file, sync, system_error

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
        async_save: Copy the shards to main memory, and write them while training goes on. It needs main memory for
            parameters and optimiser state once more.
    """

    def __init__(
        self,
        save_distributed_checkpoint: bool = True,
        process_group_backend: str | None = None,
        timeout: timedelta = _TIMEOUT,
        async_save: bool = False,
    ) -> None:
        if async_save and not save_distributed_checkpoint:
            raise UserError("async_save: expected save_distributed_checkpoint true, got false")
        super().__init__(1, 1, save_distributed_checkpoint, process_group_backend, timeout)
        self.async_save = async_save
        self._save: tuple[Path, Future[None]] | None = None
        self._group: Any = None
        self._verified: Path | None = None

    def setup_environment(self) -> None:
        """Start the processes; all of them share the model."""
        share_among_all(self)
        super().setup_environment()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint, each rank its shards, and force it to the disk; with ``async_save``, begin to.

        Raises:
            UserError: If a rank cannot write its shards, for instance because the disk is full, or they could not be
                read again.
        """
        path = Path(self.broadcast(filepath))
        self.finish_save()  # one at a time
        with _raising_user_errors(path):
            if self._save_distributed_checkpoint and storage_options is None:
                self._begin_save(checkpoint, path)
            else:
                super().save_checkpoint(checkpoint, path, storage_options)

    @property
    def is_saved(self) -> bool:
        """Whether no checkpoint is being written; on rank zero, whether all ranks have written theirs."""
        return self._save is None or self._save[1].done()

    def finish_save(self) -> None:
        """Wait until the checkpoint that is being written, if any, is whole; all ranks must call it.

        Raises:
            UserError: If a rank cannot write its shards.
        """
        save, self._save = self._save, None
        if save is not None:
            with _raising_user_errors(save[0]):
                save[1].result()

    def _begin_save(self, checkpoint: dict[str, Any], path: Path) -> None:
        rest = path / SHARDED_REST_FILE
        failure = _make_room(path) if self.is_global_zero else None
        if (failure := self.broadcast(failure)) is not None:  # on all ranks, or the others would wait for this one
            raise failure
        path.mkdir(parents=True, exist_ok=True)
        shards = {"state_dict": checkpoint.pop("state_dict")}
        for number, state in enumerate(checkpoint.pop("optimizer_states", [])):
            shards[f"optimizer_{number}"] = state
        content = BytesIO()
        torch.save(checkpoint, content)  # now, as it changes while the shards are written
        content.seek(0)
        refuse_other_objects(content, path)

        def end() -> None:
            if self.is_global_zero:
                with staged_file(rest) as staging:
                    staging.write_bytes(content.getbuffer())
                sync(path)

        writer = ChecksumWriter(path, is_copied=self.root_device.type != "cpu")
        if self.async_save:
            self._group = self._group or torch.distributed.new_group(backend="gloo", timeout=self._timeout)
            self._save = path, _then(async_save(shards, storage_writer=writer, process_group=self._group), end)
        else:
            save(shards, storage_writer=writer)
            end()

    def teardown(self) -> None:
        """Wait for a checkpoint that is being written."""
        try:
            self.finish_save()
        except UserError as error:
            rank_zero_warn(str(error), category=DMaxWarning)
        super().teardown()

    def set_verified(self, path: str | Path) -> None:
        """Do not compare the checksums of a checkpoint again when it is loaded."""
        self._verified = Path(path)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Load weights and optimiser, each rank its shards, and return the rest; nothing that is read is executed."""
        path = Path(self.broadcast(str(checkpoint_path)))
        if not is_sharded_checkpoint(path):
            return super().load_checkpoint(path, weights_only=True)
        if path != self._verified:
            check_shards(path, contents=True)
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
        # Not to where rank zero, which wrote it, had its tensors: all ranks would load them to its device.
        rest: dict[str, Any] = torch.load(path / SHARDED_REST_FILE, map_location="cpu", weights_only=True)
        return rest


def _make_room(path: Path) -> OSError | None:
    """Make a path a folder that is not a checkpoint, until all shards are new; return why that is impossible."""
    try:
        if path.is_file():
            path.unlink()
        (path / SHARDED_REST_FILE).unlink(missing_ok=True)
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return error
    return None


def _then(future: Any, end: Callable[[], None]) -> "Future[None]":
    """Return a future of what is called, in the future's thread, once it has succeeded."""
    both: Future[None] = Future()

    def call(done: Any) -> None:
        try:
            done.result()
            end()
        except BaseException as error:
            both.set_exception(error)
        else:
            both.set_result(None)

    future.add_done_callback(call)
    return both


@contextmanager
def _raising_user_errors(path: Path) -> Iterator[None]:
    """Raise the system's errors as the user's; others, such as a lost connection, as they are."""
    try:
        yield
    except CheckpointException as error:  # the errors of all ranks, with tracebacks
        raise _write_error(path, next(iter(error.failures.values()))[0]) from error
    except (OSError, RuntimeError) as error:
        cause = system_error(error)
        if cause is None:
            raise
        raise _write_error(path, cause) from error


def _write_error(path: str | Path, error: BaseException) -> UserError:
    return UserError(f"checkpoint: cannot write {str(path)!r} ({reason_of(error)})")
