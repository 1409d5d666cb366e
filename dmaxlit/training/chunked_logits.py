"""Sums over positions of what their logits say, with the logits of a few positions at a time.

A batch's logits, ``[tokens, vocab]``, are by far the largest tensor of a training step, and their gradient is as large.
Neither is needed whole.

Liger's fused linear cross-entropy does this on a GPU for a plain sum. Here each position has a weight, strategies add
terms (entropy), diagnostics need the top-1 token, and heads may be sharded or capped: any head and any score will do.
"""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["Head", "Score", "chunk_size", "chunked_sum", "chunks"]

# Logits held at a time: what they turn into (probabilities, gradients) takes a few times as much.
_MAX_LOGITS = {"cpu": 2**22, "other": 2**26}
_FEWEST = 128  # positions; the gradient of the whole head is added up at each piece

Score = Callable[[Tensor, slice], Tensor]


class Head(Protocol):
    """Turns hidden states ``[n, width]`` into logits ``[n, vocab_size]``."""

    vocab_size: int

    def __call__(self, hidden: Tensor) -> Tensor: ...  # noqa: D102

    def parameters(self) -> Iterable[Tensor]:
        """What the logits depend on beside the hidden states."""


def chunks(hidden: Tensor, vocab_size: int) -> list[slice]:
    """Which positions are worked on together; one piece, though it be empty, if all of them can be.

    Args:
        hidden: ``[n, width]``.
        vocab_size: Logits of one position.
    """
    count = hidden.shape[0]
    rows = chunk_size(count, vocab_size, hidden.device.type)
    return [slice(begin, min(begin + rows, count)) for begin in range(0, max(count, 1), max(rows, 1))]


def chunk_size(count: int, vocab_size: int, device: str) -> int:
    """How many of ``count`` positions are worked on together.

    Args:
        count: Positions there are.
        vocab_size: Logits of one position.
        device: Type of the device.
    """
    at_once = _MAX_LOGITS.get(device, _MAX_LOGITS["other"])
    return count if count * vocab_size <= at_once else min(count, max(at_once // vocab_size, _FEWEST))


def chunked_sum(score: Score, hidden: Tensor, head: Head) -> Tensor:
    """``score(head(hidden), all positions)``, a scalar with gradients, worked out piece by piece.

    Each piece's gradient is taken in the forward pass, while its logits are there, and scaled in the backward pass.

    Args:
        score: Sum over the positions of a piece, given their logits and which positions they are.
        hidden: ``[n, width]``.
        head: Gives the logits.
    """
    parameters = [parameter for parameter in head.parameters() if parameter.requires_grad]
    parts = chunks(hidden, head.vocab_size)
    if torch.is_grad_enabled() and (hidden.requires_grad or parameters):
        total: Tensor = _Sum.apply(score, head, parts, hidden, *parameters)  # type: ignore[no-untyped-call]
        return total
    return torch.stack([score(head(hidden[part]), part) for part in parts]).sum()


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, score: Score, head: Head, parts: list[slice], hidden: Tensor, *parameters: Tensor) -> Tensor:
        gradient = torch.zeros_like(hidden)
        sums = [torch.zeros_like(parameter, dtype=_at_least_float(parameter)) for parameter in parameters]
        total = torch.zeros((), device=hidden.device)
        for part in parts:
            with torch.enable_grad():
                piece = hidden[part].detach().requires_grad_()
                value = score(head(piece), part)
            total += value.detach()
            found, *others = torch.autograd.grad(value, [piece, *parameters], materialize_grads=True)
            gradient[part] = found
            for whole, other in zip(sums, others, strict=True):
                whole += other
        ctx.save_for_backward(gradient, *(whole.to(p.dtype) for whole, p in zip(sums, parameters, strict=True)))
        return total

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        pairs = zip(ctx.saved_tensors, ctx.needs_input_grad[3:], strict=True)
        return (
            None,
            None,
            None,
            *(scale.to(gradient.dtype) * gradient if wanted else None for gradient, wanted in pairs),
        )


def _at_least_float(parameter: Tensor) -> torch.dtype:
    return torch.promote_types(parameter.dtype, torch.float32)
