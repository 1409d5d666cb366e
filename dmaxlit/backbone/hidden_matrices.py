"""What kind of layer a parameter belongs to: hidden weight matrices, routers, output embeddings. Names decide nothing.

The optimiser and the adapters of LoRA both choose layers by these rules.
"""

import re
from collections.abc import Iterator
from typing import Literal

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

Layout = Literal["outputs_first", "inputs_first", "none"]

_MARK = "_hidden_matrix_layout"
_GATE = re.compile("router|gating|gate$", re.IGNORECASE)


def layout_of(parameter: Tensor) -> Layout | None:
    """Return what :func:`mark_hidden_matrices` found the parameter to be; None if it has not seen it."""
    layout: Layout | None = getattr(parameter, _MARK, None)
    return layout


def mark_hidden_matrices(model: nn.Module) -> None:
    """Write on every parameter whether it is a hidden weight matrix, for an optimiser that receives no modules.

    Hidden are the weights of linear layers (``nn.Linear`` and GPT-2's ``Conv1D``) and of experts stacked in one
    ``[experts, ., .]`` tensor. Embeddings, output embeddings, routers, adapters, biases and norms are not, nor is a
    weight that a layer shares with one of them.

    Args:
        model: The model, or a module with models in it. A copy of it has no marks.
    """
    excluded = set(output_embeddings(model)) | set(routers(model))
    for module in model.modules():
        if hasattr(module, "lora_A"):
            excluded.update(module.modules())
    layouts: dict[Tensor, set[Layout]] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            layout: Layout = "none" if module in excluded else _layout(module, name, parameter)
            layouts.setdefault(parameter, set()).add(layout)
    for marked, found in layouts.items():
        setattr(marked, _MARK, found.pop() if len(found) == 1 else "none")


def copy_mark(source: Tensor, target: Tensor) -> None:
    """Write on one parameter what :func:`mark_hidden_matrices` wrote on another."""
    if layout_of(source) is not None:
        setattr(target, _MARK, layout_of(source))


def output_embeddings(model: nn.Module) -> Iterator[nn.Module]:
    """Return the output embedding of each transformers model in a module."""
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            head = module.get_output_embeddings()
            if head is not None:
                yield from head.modules()


def routers(model: nn.Module) -> Iterator[nn.Module]:
    """Return the routers of mixtures of experts, with all modules in them.

    Routers are classes named so, and of a block with experts the layers that score them: a linear layer with one output
    for each expert, or with a single one, which gates a shared expert.
    """
    for block in model.modules():
        if "router" in type(block).__name__.lower():
            yield from block.modules()
        counts = [count for name, child in block.named_children() if (count := _num_experts(name, child))]
        for child in block.children() if counts else ():
            outputs = getattr(child, "out_features", None)
            if outputs in (1, *counts) or (outputs is None and _GATE.search(type(child).__name__)):
                yield from child.modules()


def expert_modules(model: nn.Module) -> Iterator[tuple[nn.Module, int]]:
    """Return each module that holds the experts of a layer, and their number."""
    for block in model.modules():
        for name, child in block.named_children():
            if count := _num_experts(name, child):
                yield child, count


def _num_experts(name: str, module: nn.Module) -> int:
    if isinstance(module, nn.ModuleList):
        return len(module) if name == "experts" else 0
    return next((p.shape[0] for p in module.parameters(recurse=False) if _is_stack(module, p)), 0)


def _is_stack(module: nn.Module, parameter: Tensor) -> bool:
    return parameter.ndim == 3 and "expert" in type(module).__name__.lower()


def _layout(module: nn.Module, name: str, parameter: Tensor) -> Layout:
    if _is_stack(module, parameter):
        return "inputs_first" if getattr(module, "is_transposed", False) else "outputs_first"
    if name == "weight" and parameter.ndim == 2:
        if isinstance(module, Conv1D):
            return "inputs_first"
        if isinstance(module, nn.Linear):
            return "outputs_first"
    return "none"
