"""What the host has made, copied to a device."""

from collections.abc import Sequence

import torch
from torch import Tensor


def on_device(values: Tensor | Sequence[int] | Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Return values of the host as a tensor on a device; the host does not wait for what the device has to do before.

    Args:
        values: A tensor on the CPU that nobody writes to any more; or integers, or rows of them that are equally long.
        device: The device.
    """
    tensor = values if isinstance(values, Tensor) else torch.tensor(values, dtype=torch.long)
    # Only CUDA stages what it copies before the call returns; elsewhere a temporary tensor may be gone by then.
    return tensor.to(device, non_blocking=device.type == "cuda")
