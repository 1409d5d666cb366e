"""Muon for hidden matrices and AdamW for all other parameters, as one optimiser."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from dmaxlit.backbone.hidden_matrices import layout_of, mark_hidden_matrices
from dmaxlit.errors import UserError

# Quintic Newton-Schulz coefficients of Jordan et al.: steep at zero, singular values end up in about [0.7, 1.2].
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """Approximately replace each matrix U S V' by U V', by Newton-Schulz iteration.

    ``torch.optim.Muon`` does the same one matrix at a time and in bfloat16, which most CPUs only emulate: at 0.45M
    parameters it takes as long as forward and backward pass together. This function works on a stack of matrices, in
    their own dtype.

    Args:
        matrices: ``[..., rows, columns]``.
        steps: Number of iterations.

    Returns:
        The orthogonalised matrices, ``[..., rows, columns]``.
    """
    a, b, c = _COEFFICIENTS
    transpose = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if transpose else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    out: Tensor = x.mT if transpose else x
    return out


class MuonAdamW(Optimizer):
    """Muon on hidden weight matrices, AdamW on embeddings, heads, routers, adapters of LoRA, norms and biases.

    Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon): ``W -= lr sqrt(max(1, outputs/inputs)) U V'``
    of the Nesterov momentum. Hidden are the weights of linear layers, and experts stacked in one tensor, of which each
    is a matrix of its own; :mod:`dmaxlit.backbone.hidden_matrices` tells them apart. Both groups belong to one
    optimiser, so schedulers, clipping and checkpoints handle one.

    Args:
        params: (name, parameter) pairs of a module that ``mark_hidden_matrices`` has seen, as ``DMaxModule`` passes
            them; or the module itself.
        lr: Learning rate of Muon.
        adamw_lr: Learning rate of AdamW.
        momentum: Momentum of Muon, in [0, 1).
        weight_decay: Decoupled weight decay of both.
        betas: Betas of AdamW.

    Raises:
        UserError: If a setting is out of range, parameters come without names or marks, or are sharded.
    """

    def __init__(
        self,
        params: Iterable[tuple[str, Tensor]] | nn.Module,
        lr: float = 0.02,
        adamw_lr: float = 3e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.95),
    ) -> None:
        if isinstance(params, nn.Module):
            mark_hidden_matrices(params)
            params = params.named_parameters()
        named = list(params)
        if not all(isinstance(item, tuple) for item in named):
            raise UserError("MuonAdamW.params: expected (name, parameter) pairs, got parameters without names")
        if any(isinstance(parameter, DTensor) for _, parameter in named):
            raise UserError("MuonAdamW: expected whole matrices, got sharded ones; take AdamW under FSDP")
        if lr < 0 or adamw_lr < 0 or weight_decay < 0 or not 0 <= momentum < 1:
            raise UserError(
                "MuonAdamW: expected lr, adamw_lr, weight_decay >= 0 and momentum in [0, 1), "
                f"got {lr}, {adamw_lr}, {weight_decay}, {momentum}"
            )
        by_layout: dict[str, list[Tensor]] = {"outputs_first": [], "inputs_first": [], "none": []}
        for name, parameter in named:
            if parameter.requires_grad:
                layout = layout_of(parameter) or ("none" if parameter.ndim < 2 else None)
                if layout is None:
                    raise UserError(
                        f"MuonAdamW.params: expected a module, or parameters whose layers are known, got {name!r} "
                        "alone; pass the module, or call mark_hidden_matrices on it"
                    )
                by_layout[layout].append(parameter)
        groups: list[dict[str, Any]] = [
            {"params": by_layout["outputs_first"], "muon": True, "lr": lr},
            {"params": by_layout["inputs_first"], "muon": True, "lr": lr, "inputs_first": True},
            {"params": by_layout["none"], "muon": False, "lr": adamw_lr},
        ]
        defaults = {"momentum": momentum, "weight_decay": weight_decay, "betas": betas}
        super().__init__([group for group in groups if group["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter; return the closure's value, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                (self._muon if group["muon"] else self._adamw)(parameters, group)
        return loss

    def _muon(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
        for parameter in parameters:
            by_shape[parameter.shape].append(parameter)
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        momentum = group["momentum"]
        for shape, matrices in by_shape.items():
            gradients = [p.grad for p in matrices if p.grad is not None]
            buffers = [self.state[p]["momentum_buffer"] for p in matrices]
            torch._foreach_lerp_(buffers, gradients, 1 - momentum)
            nesterov = torch._foreach_lerp(gradients, buffers, momentum)
            updates = list(orthogonalize(torch.stack(list(nesterov))).to(matrices[0].dtype))
            rows, columns = shape[-2:]
            # Checkpoints of a model without inputs-first matrices hold groups without the entry.
            growth = columns / rows if group.get("inputs_first", False) else rows / columns
            torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(matrices, updates, alpha=-group["lr"] * max(1.0, growth) ** 0.5)

    def _adamw(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter].update(
                    step=torch.zeros(()),
                    exp_avg=torch.zeros_like(parameter),
                    exp_avg_sq=torch.zeros_like(parameter),
                )
        states = [self.state[p] for p in parameters]
        adamw(
            parameters,
            [p.grad for p in parameters if p.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=1e-8,
            maximize=False,
        )
