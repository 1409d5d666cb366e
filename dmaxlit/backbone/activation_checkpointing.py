"""Gradient checkpointing that keeps the cached keys and values of the clean copy."""

from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

# transformers removes the cache from layers that are recomputed in the backward pass, because writing to most caches
# twice is wrong. Ours allows it (:class:`dmaxlit.backbone.cache.CleanCache`), and this attribute of a layer says so.
# In a version without the attribute, training falls back to the doubled sequence.
_FLAG = "_can_checkpoint_with_cache"


def enable_activation_checkpointing(model: PreTrainedModel) -> None:
    """Keep only each layer's input while training, and recompute the layer in the backward pass."""
    model.activation_checkpointing_enable({"use_reentrant": False})
    if supports_cache_under_checkpointing(model):
        for layer in _layers(model):
            setattr(layer, _FLAG, True)


def supports_cache_under_checkpointing(model: PreTrainedModel) -> bool:
    """Return whether layers can use a cache once :func:`enable_activation_checkpointing` has been called."""
    layers = _layers(model)
    return bool(layers) and all(hasattr(layer, _FLAG) for layer in layers)


def can_checkpoint_with_cache(model: PreTrainedModel) -> bool:
    """Return whether layers use a cache although they are recomputed."""
    return supports_cache_under_checkpointing(model) and all(getattr(layer, _FLAG) for layer in _layers(model))


def disable_cache_under_checkpointing(model: PreTrainedModel) -> None:
    """Record that the model itself removes the cache from recomputed layers, as GPT-2 does."""
    for layer in _layers(model):
        setattr(layer, _FLAG, False)


def _layers(model: PreTrainedModel) -> list[GradientCheckpointingLayer]:
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
