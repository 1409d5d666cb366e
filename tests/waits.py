"""Where the host would wait for a GPU, seen on a CPU."""

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


class Reads(TorchDispatchMode):
    """Notes the operations whose result, or its size, the host reads from the device."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        selects = any(index is not None and index.dtype == torch.bool for index in indices)
        if selects or name in ("_local_scalar_dense", "masked_select", "nonzero"):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


class Uploads(TorchFunctionMode):
    """Notes the copies of integers from the host to a device: whether it is said that the host may go on before."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.tensor and "device" in kwargs:
            self.seen.append(False)
        if func is Tensor.to and not args[0].is_floating_point() and any(isinstance(arg, torch.device) for arg in args):
            self.seen.append("non_blocking" in kwargs)
        return func(*args, **kwargs)
