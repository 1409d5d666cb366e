"""The processes of a run, one for each device, started by Lightning's launcher, torchrun or SLURM."""

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, NoReturn, Protocol, TypeVar

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.strategies.ddp import DDPStrategy
from lightning.fabric.strategies.single_device import SingleDeviceStrategy
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import rank_zero_only

from dmaxlit.errors import UserError, check_at_least, check_choice, reason_of

T = TypeVar("T")
_PATIENCE = timedelta(days=7)


class LostRankError(UserError):
    """Processes of a run have ended before the others.

    Args:
        world_size: Number of processes.
        lost: Ranks that have ended; none if they are not known.
        reason: How that was noticed.
    """

    def __init__(self, world_size: int, lost: Sequence[int], reason: str = "") -> None:
        super().__init__(world_size, lost, reason)
        self.world_size, self.lost, self.reason = world_size, lost, reason

    def __str__(self) -> str:
        """Return the message, which names the ranks."""
        names = f"rank {' and '.join(map(str, self.lost))}" if self.lost else "one of them"
        because = f" ({self.reason})" if self.reason else ""
        return (
            f"devices: expected {self.world_size} processes until the end, but {names} has ended{because}; what was "
            "recorded is kept, and the same command resumes"
        )


class Watch(Protocol):
    """Knows which processes of a run have ended."""

    def ended(self) -> list[int]:
        """Return the ranks that have ended."""

    def wait_for(self, rank: int) -> None:
        """Wait until a rank has ended, a few seconds at most."""


class Ranks:
    """What the processes do together.

    Args:
        fabric: The launched Fabric; None for this process alone.

    Attributes:
        watch: Names the ranks that have ended, in the message of one that waits for them.
    """

    def __init__(self, fabric: Fabric | None = None) -> None:
        self.device = torch.device("cpu") if fabric is None else fabric.device
        self.rank, self.world_size = (0, 1) if fabric is None else (fabric.global_rank, fabric.world_size)
        self.watch: Watch | None = None
        self._num_nodes = 1 if fabric is None else getattr(fabric.strategy, "num_nodes", 1)  # a single device has none
        self._group: torch.distributed.ProcessGroup | None = None  # the default one
        self._parent = os.getppid()

    @classmethod
    def launch(
        cls, device: str = "auto", devices: int | str | Sequence[int] = 1, num_nodes: int = 1, strategy: str = "auto"
    ) -> "Ranks":
        """Start the other processes of this node, each of which runs the same command, and connect them all.

        Processes that torchrun or SLURM has started are only connected.

        Args:
            device: Kind of device: ``cpu``, ``cuda``, ...; ``auto`` for an accelerator if there is one; ``cuda:1`` for
                that one.
            devices: Devices of each node: their number, ``auto`` or -1 for all, or the index of each.
            num_nodes: Nodes; the command is started on each.
            strategy: ``auto``, or ``ddp``, which connects even a single process.

        Raises:
            UserError: If there is no such device or strategy, or there are not so many.
        """
        check_at_least(1, num_nodes=num_nodes, devices=devices if isinstance(devices, int) and devices != -1 else None)
        check_choice("strategy", strategy, ("auto", "ddp"))
        kind, _, index = device.partition(":")
        if index and (not index.isdecimal() or devices != 1):
            raise UserError(f"device: expected a kind of device, or one with devices 1, got {device!r}")
        chosen: Any = [int(index)] if index else devices
        # What the processes exchange is on the host, and one may wait long for another one's share.
        several = DDPStrategy(process_group_backend="gloo", timeout=_PATIENCE)
        try:
            fabric = Fabric(accelerator=kind, devices=chosen, num_nodes=num_nodes)
            if strategy == "ddp" or not isinstance(fabric.strategy, SingleDeviceStrategy) or started_by_others():
                fabric = Fabric(accelerator=kind, devices=chosen, num_nodes=num_nodes, strategy=several)
        except (TypeError, ValueError, RuntimeError, ImportError, MisconfigurationException) as error:
            name = "device" if devices == 1 else "devices"
            got = repr(device) if devices == 1 else f"{devices} of {device!r}"
            raise UserError(
                f"{name}: expected what torch can compute on here, got {got} ({reason_of(error)})"
            ) from error
        try:
            fabric.launch()
        except ValueError as error:  # torchrun or SLURM has started another number of processes
            if getattr(rank_zero_only, "rank", 0) != 0:
                raise SystemExit(2) from error
            raise UserError(f"devices: expected as many as processes were started ({reason_of(error)})") from error
        return cls(fabric)

    @classmethod
    def of_trainer(cls, trainer: Any) -> "Ranks":
        """Return the processes of a Lightning trainer; all of them call this, and :meth:`end` afterwards."""
        ranks = cls()
        ranks.device = trainer.strategy.root_device
        ranks.rank, ranks.world_size = trainer.global_rank, trainer.world_size
        ranks._num_nodes = trainer.num_nodes
        if ranks.world_size > 1:  # whose own group may be on GPUs, and has little patience
            ranks._group = torch.distributed.new_group(backend="gloo", timeout=_PATIENCE)
        return ranks

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes the results."""
        return self.rank == 0

    @property
    def local_world_size(self) -> int:
        """Number of processes of this node; the others have as many each."""
        return self.world_size // self._num_nodes

    def end_with_parent(self) -> None:
        """End this process if the one that started it has been killed: nobody waits for its share any more.

        Raises:
            SystemExit: If so.
        """
        if not self.is_main and os.getppid() != self._parent:
            raise SystemExit(1)

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, in order.

        Raises:
            UserError: If a process has ended, on the first of the others; the rest end without a message.
        """
        if self.world_size == 1:
            return [value]
        try:
            return self._exchange(value)
        except RuntimeError as error:
            lost = [] if self.watch is None else self.watch.ended()
            self.end_without(lost, "" if lost else reason_of(error))

    def _exchange(self, value: T) -> list[T]:
        values: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(values, value, self._group)
        return values

    def end_without(self, lost: Sequence[int], reason: str = "") -> NoReturn:
        """End this process because others have ended.

        Args:
            lost: Their ranks; none if they are not known.
            reason: How that was noticed.

        Raises:
            UserError: On the first process that is left.
            SystemExit: On the others.
        """
        speaker = min(set(range(self.world_size)) - set(lost))
        if self.rank != speaker:
            if self.watch is not None:
                self.watch.wait_for(speaker)  # Lightning kills it, before it can speak, when another one has ended
            raise SystemExit(1)
        raise LostRankError(self.world_size, lost, reason)

    def together(self, function: Callable[[], T]) -> T:
        """Call a function on every rank; if it refuses something on one, all of them end.

        Raises:
            UserError: On the main rank, if a rank raised one; the others end without a message.
        """
        result, error = None, None
        try:
            result = function()
        except UserError as refusal:
            error = refusal
        refusals = [refusal for refusal in self.gather(error) if refusal is not None]
        if not refusals:
            return result  # type: ignore[return-value]
        if not self.is_main:
            raise SystemExit(0)  # Lightning kills all, the main one too, if another one reports a failure
        # Ranks that noticed the end of another one say less than that one.
        first = next((refusal for refusal in refusals if not isinstance(refusal, LostRankError)), refusals[0])
        raise first from (error if error is not first else None)

    def from_main(self, function: Callable[[], T]) -> T:
        """Return on every rank what a function returns on the main rank, where alone it is called.

        Raises:
            UserError: As :meth:`together`.
        """
        value = self.together(lambda: function() if self.is_main else None)
        return self.gather(value)[0]  # type: ignore[return-value]

    def end(self) -> None:
        """Disconnect the processes."""
        if self.world_size > 1:
            torch.distributed.destroy_process_group(self._group)


def started_by_others() -> bool:
    """Return whether torchrun or SLURM has started this process as one of several."""
    return any(
        environment.detect() and environment().world_size() > 1
        for environment in (TorchElasticEnvironment, SLURMEnvironment)
    )
