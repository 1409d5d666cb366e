"""The memory of an optimiser: its state, and what an update needs besides, by letting it step on the meta device."""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dmaxlit.backbone.hidden_matrices import copy_mark
from dmaxlit.backbone.torch_internals import storage_id


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Return the size of tensors in bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def optimizer_memory(
    optimizer: Callable[[Any], Optimizer], parameters: list[tuple[str, Tensor]], device: str = "meta"
) -> tuple[int, int]:
    """Return the bytes of an optimiser's state after a step, and the most that a step holds besides.

    Torch's optimisers update all parameters together on a GPU (``foreach``) unless told otherwise, with temporary
    tensors of the size of all of them. A fused one has none.

    Args:
        optimizer: Makes the optimiser from named parameters.
        parameters: The trained parameters; they are not changed.
        device: Device of the copies that it steps on.
    """
    copies = [(name, torch.nn.Parameter(torch.empty_like(p, device=device))) for name, p in parameters]
    for (_, target), (_, parameter) in zip(copies, parameters, strict=True):
        copy_mark(parameter, target)
    instance = optimizer(copies)
    is_fused = False
    for group in instance.param_groups:
        if group.get("fused"):  # refused on the meta device
            is_fused, group["fused"], group["foreach"] = True, False, False
        elif group.get("foreach", False) is None:
            group["foreach"] = True
    for _, parameter in copies:
        parameter.grad = torch.empty_like(parameter)
    instance.step()
    state = [value for values in instance.state.values() for value in values.values() if isinstance(value, Tensor)]
    gradients = [parameter.grad for _, parameter in copies if parameter.grad is not None]
    peak = PeakBytes([*(parameter for _, parameter in copies), *gradients, *state])
    with peak:
        instance.step()
    return bytes_of(state), 0 if is_fused else peak.largest


class PeakBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Measures the most bytes of tensors, made while it is entered, that exist together; works on the meta device.

    Args:
        known: Tensors that exist already and are not counted.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known = list(known)  # kept, so that their addresses are not used again
        self._seen = {storage_id(tensor) for tensor in self._known}
        self._now = self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and storage_id(tensor) not in self._seen:
                self._add(tensor)
        return out

    def _add(self, tensor: Tensor) -> None:
        storage, key = tensor.untyped_storage(), storage_id(tensor)
        size = storage.nbytes()
        self._seen.add(key)
        self._now += size
        self.largest = max(self.largest, self._now)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self._now -= size
