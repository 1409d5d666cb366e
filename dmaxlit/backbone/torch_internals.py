"""What dmaxlit uses of torch beyond its documented interface, in one place.

Each function names what it relies on; ``tests/backbone/test_torch_internals.py`` has a test for each, so that a release
that changes one of them says what to fix. (``torch._foreach_*``, which torch's own optimisers are written with, is used
where it is needed.)
"""

from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.utils._python_dispatch import TorchDispatchMode


def allow_recompilations(count: int) -> None:
    """Let ``torch.compile`` specialise a function for at least ``count`` shapes.

    Relies on ``torch._dynamo.config.recompile_limit``.
    """
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, count)


def mark_static_address(buffer: Tensor) -> None:
    """Promise compiled code that a buffer stays where it is, so that CUDA graphs may write to it.

    Relies on ``torch._dynamo.mark_static_address``.
    """
    torch._dynamo.mark_static_address(buffer)


def initialize_fsdp(root: FSDPModule) -> None:
    """Initialise a sharded module as its first forward would, so that it can be gathered before one.

    Relies on ``FSDPModule._get_fsdp_state()`` and its ``_lazy_init()``.
    """
    root._get_fsdp_state()._lazy_init()


def storage_id(tensor: Tensor) -> int:
    """Return a number that tensors share if and only if they share their storage, also on the meta device.

    Relies on ``UntypedStorage._cdata``.
    """
    return int(tensor.untyped_storage()._cdata)


class MetaGroupedProducts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Allow grouped matrix products of any type on the meta device, where torch has them in bfloat16 alone.

    Relies on ``torch.utils._python_dispatch.TorchDispatchMode`` and the operator ``aten::_grouped_mm``.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._grouped_mm.default:
            inputs, stacked = args[:2]
            return inputs.new_empty(inputs.shape[0], stacked.shape[-1])
        return func(*args, **(kwargs or {}))
