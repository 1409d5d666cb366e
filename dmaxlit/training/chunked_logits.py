"""Sums over positions of a score of their logits, with the logits of one chunk of positions at a time.

A batch's logits, ``[tokens, vocab]``, are by far the largest tensor of a training step, and their gradient is as large.
Neither is needed as a whole.

Liger's fused linear cross-entropy does this on a GPU for a plain sum. Here each position has a weight, strategies add
terms (entropy), diagnostics need the top-1 token, and heads may be sharded or capped: any head and any score works.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

# Logits in a chunk; the tensors computed from them (probabilities, gradients) take a few times as much.
_MAX_LOGITS = {"cpu": 2**22, "other": 2**26}
_FEWEST = 128  # of a chunk: each adds a gradient of the size of the whole head
_UNIT = 1024.0  # divides gradients that are sums over positions until they are scaled: float16 may not hold them

# The sum over a chunk's positions, given their logits and which positions they are.
Score: TypeAlias = Callable[[Tensor, slice], Tensor]


class Head(Protocol):
    """Turns hidden states ``[n, width]`` into logits ``[n, vocab_size]``."""

    vocab_size: int

    def __call__(self, hidden: Tensor) -> Tensor: ...  # noqa: D102

    def parameters(self) -> Iterable[Tensor]:
        """Return the parameters the logits depend on."""


def chunks(hidden: Tensor, vocab_size: int) -> list[slice]:
    """Split the positions into chunks; at least one, which may be empty.

    Args:
        hidden: ``[n, width]``.
        vocab_size: Logits of one position.
    """
    count = hidden.shape[0]
    size = chunk_size(count, vocab_size, hidden.device.type)
    return [slice(start, min(start + size, count)) for start in range(0, max(count, 1), max(size, 1))]


def chunk_size(count: int, vocab_size: int, device: str) -> int:
    """Return the number of positions in a chunk.

    Args:
        count: Number of positions.
        vocab_size: Logits of one position.
        device: Type of the device.
    """
    most = _MAX_LOGITS.get(device, _MAX_LOGITS["other"])
    return count if count * vocab_size <= most else min(count, max(most // vocab_size, _FEWEST))


@contextmanager
def head_cast_once(device: torch.device) -> Iterator[None]:
    """Let autocast cast the head's weights for the first chunk alone, where Lightning has it cast them for each.

    They are forgotten at the end, before an optimiser changes them.

    Args:
        device: Device of the chunks.
    """
    if not torch.is_autocast_enabled(device.type) or torch.is_autocast_cache_enabled():
        yield
        return
    torch.set_autocast_cache_enabled(True)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(False)
        torch.clear_autocast_cache()


def chunked_sum(score: Score, hidden: Tensor, head: Head) -> Tensor:
    """Return ``score(head(hidden), all positions)``, a scalar with gradients, computed chunk by chunk.

    Each chunk's gradient is computed in the forward pass, while its logits are in memory, and scaled in the backward
    pass.

    Args:
        score: Sum over the positions of a chunk, given their logits and which positions they are.
        hidden: ``[n, width]``.
        head: Computes the logits.
    """
    parameters = [parameter for parameter in head.parameters() if parameter.requires_grad]
    slices = chunks(hidden, head.vocab_size)
    if torch.is_grad_enabled() and (hidden.requires_grad or parameters):
        total: Tensor = _ChunkedSum.apply(score, head, slices, hidden, *parameters)  # type: ignore[no-untyped-call]
        return total
    with head_cast_once(hidden.device):
        return torch.stack([score(head(hidden[chunk]), chunk) for chunk in slices]).sum()


class _ChunkedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, score: Score, head: Head, slices: list[slice], hidden: Tensor, *parameters: Tensor) -> Tensor:
        hidden_grad = torch.zeros_like(hidden)
        parameter_grads = [torch.zeros_like(parameter, dtype=_at_least_float32(parameter)) for parameter in parameters]
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        with head_cast_once(hidden.device):
            for chunk in slices:
                with torch.enable_grad():
                    inputs = hidden[chunk].detach().requires_grad_()
                    value = score(head(inputs), chunk)
                total += value.detach()
                input_grad, *chunk_grads = torch.autograd.grad(value, [inputs, *parameters], materialize_grads=True)
                hidden_grad[chunk] = input_grad
                for grad, chunk_grad in zip(parameter_grads, chunk_grads, strict=True):
                    grad += chunk_grad
        ctx.save_for_backward(
            hidden_grad, *((grad / _UNIT).to(p.dtype) for grad, p in zip(parameter_grads, parameters, strict=True))
        )
        return total

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        hidden_grad, *parameter_grads = ctx.saved_tensors
        is_needed = ctx.needs_input_grad[3]  # after score, head and slices; of the parameters, each trains
        grads = (_scaled(grad, scale * _UNIT) for grad in parameter_grads)
        return None, None, None, _scaled(hidden_grad, scale) if is_needed else None, *grads


def _scaled(grad: Tensor, scale: Tensor) -> Tensor:
    return (grad * scale[None]).to(grad.dtype)  # a number without a dimension would be rounded to 16 bits


def _at_least_float32(parameter: Tensor) -> torch.dtype:
    return torch.promote_types(parameter.dtype, torch.float32)
