"""The processes of a command that shares prompts among devices."""

from collections.abc import Sequence

from dmaxlit.errors import UserError, renaming_argument
from dmaxlit.ranks import Ranks, started_by_others


def may_be_several(devices: int | str | Sequence[int], num_nodes: int) -> bool:
    """Return whether a command may run in more than one process."""
    return devices != 1 or num_nodes != 1 or started_by_others()


def launch_ranks(
    device: str, accelerator: str, devices: int | str | Sequence[int], num_nodes: int, strategy: str
) -> tuple[Ranks, str]:
    """Start the other processes, if there are to be several.

    Args:
        device: One device, for a single process; ``auto`` for an accelerator if there is one.
        accelerator: Kind of the devices, as of ``fit``.
        devices: Devices of each node, as of ``fit``.
        num_nodes: Nodes.
        strategy: ``auto`` or ``ddp``.

    Returns:
        The processes, and the name of this one's device.

    Raises:
        UserError: If there are no such devices, or both ``device`` and ``accelerator`` are given.
    """
    if "auto" not in (device, accelerator):
        raise UserError(f"accelerator: expected no --device with it, got {accelerator!r} and {device!r}")
    if accelerator == strategy == "auto" and not may_be_several(devices, num_nodes):
        return Ranks(), device  # also of kinds that Lightning does not know
    with renaming_argument("device" if accelerator == "auto" else "accelerator", "device"):
        ranks = Ranks.launch(accelerator if device == "auto" else device, devices, num_nodes, strategy)
    return ranks, str(ranks.device)
