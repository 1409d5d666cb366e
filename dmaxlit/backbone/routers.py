"""Expert routers in float32, also under mixed precision."""

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn


def keep_routers_in_float32(model: nn.Module) -> None:
    """Keep routers that compute in float32 (those with a bias on their scores) in float32 under autocast too.

    Their code casts to float32 and then calls a linear layer, which autocast casts back to 16 bits. With close scores,
    training would then choose other experts than decoding.

    Args:
        model: Model whose routers' forwards are replaced; weights and their names do not change.
    """
    for module in model.modules():
        if hasattr(module, "e_score_correction_bias"):
            router = getattr(module, "gate", module)  # some mixtures hold the bias, and pass it to their router
            router.forward = MethodType(_forward, router)  # a bound method follows its module when that is copied


def _forward(router: nn.Module, hidden_states: Tensor, *bias: Tensor) -> Any:
    with torch.autocast(hidden_states.device.type, enabled=False):
        return type(router).forward(router, hidden_states, *bias)
