"""Eval mode for a while, and whether it makes a difference."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import PreTrainedModel

# Part of the names of rates at which training draws: dropout, layerdrop, attn_pdrop; the routers' jitter.
_RATES = ("drop", "jitter")
_OTHER_HEADS = ("classifier", "summary")  # whose rates a config has, too


@contextmanager
def evaluating(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Switch a model's modules to eval mode, and restore each one's own mode afterwards.

    Args:
        modules: All of them, as ``model.modules()`` gives them.
    """
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def has_dropout(model: PreTrainedModel) -> bool:
    """Return whether a model, in the mode that it is in, computes with dropout or other noise of training.

    Args:
        model: The model, with its adapters.
    """
    if not model.training:
        return False
    rates: dict[str, Any] = vars(model.config)  # which some layers read when they compute
    if any(_is_noisy(name, rate) for name, rate in rates.items() if not name.startswith(_OTHER_HEADS)):
        return True
    training = (module for module in model.modules() if module.training)
    return any(
        module.p > 0
        if isinstance(module, nn.modules.dropout._DropoutNd)
        else any(_is_noisy(name, value) for name, value in vars(module).items())
        for module in training
    )


def _is_noisy(name: str, rate: object) -> bool:
    return any(part in name for part in _RATES) and isinstance(rate, float) and rate > 0
