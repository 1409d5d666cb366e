"""Gradient checkpointing that leaves the clean half's keys and values in place."""

from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

__all__ = [
    "can_checkpoint_with_cache",
    "disable_cache_under_checkpointing",
    "enable_activation_checkpointing",
    "supports_cache_under_checkpointing",
]

# transformers takes caches away from layers that are computed again, since most caches would be written to twice; ours
# may be (:class:`dmaxlit.backbone.cache.CleanCache`). Should a version drop the mark, caches are taken away again.
_MARK = "_can_checkpoint_with_cache"


def enable_activation_checkpointing(model: PreTrainedModel) -> None:
    """From now on keep only each layer's input while training, and compute the layer again in the backward pass."""
    model.activation_checkpointing_enable({"use_reentrant": False})
    if supports_cache_under_checkpointing(model):
        for layer in _layers(model):
            setattr(layer, _MARK, True)


def supports_cache_under_checkpointing(model: PreTrainedModel) -> bool:
    """Whether :func:`enable_activation_checkpointing` will let its layers use a cache."""
    layers = _layers(model)
    return bool(layers) and all(hasattr(layer, _MARK) for layer in layers)


def can_checkpoint_with_cache(model: PreTrainedModel) -> bool:
    """Whether its layers may use a cache though they are computed again."""
    return supports_cache_under_checkpointing(model) and all(getattr(layer, _MARK) for layer in _layers(model))


def disable_cache_under_checkpointing(model: PreTrainedModel) -> None:
    """Note that the model gives layers that are computed again no cache, whatever they could do (GPT-2's does so)."""
    for layer in _layers(model):
        setattr(layer, _MARK, False)


def _layers(model: PreTrainedModel) -> list[GradientCheckpointingLayer]:
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
