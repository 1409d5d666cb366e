"""Numbers of the host as tensors on a device."""

from collections.abc import Sequence

import torch
from torch import Tensor


def on_device(numbers: Sequence[int] | Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Return integers as a tensor on a device; the host does not wait for what the device has to do before.

    Args:
        numbers: Integers, or rows of them that are equally long.
        device: The device.
    """
    # Only CUDA stages what it copies before the call returns; elsewhere the temporary tensor may be gone by then.
    return torch.tensor(numbers, dtype=torch.long).to(device, non_blocking=device.type == "cuda")
