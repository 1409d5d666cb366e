"""The processes of an evaluation, one for each device, started by Lightning's launcher."""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies.ddp import DDPStrategy
from lightning.fabric.utilities.exceptions import MisconfigurationException

from dmaxlit.errors import UserError, check_at_least, reason_of

T = TypeVar("T")
_PATIENCE = timedelta(days=7)


class Ranks:
    """What the processes do together.

    Args:
        fabric: The launched Fabric.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.device = fabric.device
        self.rank, self.world_size = fabric.global_rank, fabric.world_size
        self._parent = os.getppid()

    @classmethod
    def launch(cls, device: str = "auto", devices: int = 1, num_nodes: int = 1) -> "Ranks":
        """Start the other processes of this node, each of which runs the same command, and connect them all.

        Args:
            device: Kind of device: ``cpu``, ``cuda``, ...; ``auto`` for an accelerator if there is one; ``cuda:1`` for
                that one.
            devices: Devices of each node.
            num_nodes: Nodes; the command is started on each.

        Raises:
            UserError: If there is no such device, or there are not so many.
        """
        check_at_least(1, devices=devices, num_nodes=num_nodes)
        kind, _, index = device.partition(":")
        if index and (not index.isdecimal() or devices > 1):
            raise UserError(f"device: expected a kind of device, or one with devices 1, got {device!r}")
        # What the processes exchange is on the host, and one may wait long for another one's share.
        several = DDPStrategy(process_group_backend="gloo", timeout=_PATIENCE)
        strategy: Any = several if devices * num_nodes > 1 else "auto"
        try:
            fabric = Fabric(
                accelerator=kind, devices=[int(index)] if index else devices, num_nodes=num_nodes, strategy=strategy
            )
        except (ValueError, RuntimeError, MisconfigurationException) as error:
            name = "device" if devices == 1 else "devices"
            got = repr(device) if devices == 1 else f"{devices} of {device!r}"
            raise UserError(
                f"{name}: expected what torch can compute on here, got {got} ({reason_of(error)})"
            ) from error
        fabric.launch()
        return cls(fabric)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes the results."""
        return self.rank == 0

    def end_with_parent(self) -> None:
        """End this process if the one that started it has been killed: nobody waits for its share any more.

        Raises:
            SystemExit: If so.
        """
        if not self.is_main and os.getppid() != self._parent:
            raise SystemExit(1)

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, in order."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(values, value)
        return values

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
        refusals = [message for message in self.gather(None if error is None else str(error)) if message is not None]
        if not refusals:
            return result  # type: ignore[return-value]
        if not self.is_main:
            raise SystemExit(0)  # Lightning kills all, the main one too, if another one reports a failure
        raise UserError(refusals[0]) from error

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
            torch.distributed.destroy_process_group()
