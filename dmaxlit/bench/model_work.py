"""What the model itself does while it decodes: its time, and the operations of its linear layers."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from dmaxlit.backbone.denoiser import Denoiser


def share_outside(denoiser: Denoiser, run: Callable[[], object]) -> float:
    """Return the share of process time that a run spends outside the model, on a CPU.

    The model is the forwards of embedding, transformer and head. What the transformer calls, such as writing to the
    cache, is part of its forward.

    Args:
        denoiser: The model.
        run: Decodes with it.
    """
    model = denoiser.model
    parts = [model.get_input_embeddings(), model.base_model, model.get_output_embeddings()]
    inside = [0.0]
    with _replaced_forwards(parts, lambda forward: _timed(forward, inside)):
        begin = time.process_time()
        run()
        total = time.process_time() - begin
    return 1 - inside[0] / total


def linear_operations(denoiser: Denoiser, run: Callable[[], object]) -> int:
    """Return the operations of the model's linear layers in a run, two for each weight and token.

    Args:
        denoiser: The model.
        run: Decodes with it.
    """
    total = [0]

    def count(layer: nn.Linear, inputs: tuple[Tensor], output: Tensor) -> None:
        total[0] += 2 * inputs[0].numel() * layer.out_features

    layers = [module for module in denoiser.modules() if isinstance(module, nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return total[0]


def _timed(forward: Callable[..., Any], total: list[float]) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        begin = time.process_time()
        try:
            return forward(*args, **kwargs)
        finally:
            total[0] += time.process_time() - begin

    return timed


@contextmanager
def _replaced_forwards(
    modules: list[nn.Module], make: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """Replace the forward of each module by what ``make`` makes of it."""
    own = [vars(module).get("forward") for module in modules]
    for module in modules:
        module.forward = make(module.forward)
    try:
        yield
    finally:
        for module, forward in zip(modules, own, strict=True):
            del module.forward
            if forward is not None:
                module.forward = forward
