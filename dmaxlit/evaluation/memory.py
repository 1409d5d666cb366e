"""The memory that a process has used."""

import sys

import torch


def peak_memory(device: torch.device) -> float | None:
    """Return the peak memory of this process in MiB, or None where the system does not report it.

    Args:
        device: On a GPU it is what torch has allocated there, on a CPU that of the whole process.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if device.type != "cpu" or sys.platform == "win32":
        return None
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
