"""Gradient checkpointing that keeps the cached keys and values of the clean copy.

transformers removes the cache from layers that are recomputed in the backward pass, because writing to most caches
twice is wrong. Ours allows it (:class:`dmaxlit.backbone.cache.CleanCache`), and layers are marked accordingly. In a
version without that mark, training falls back to the doubled sequence.
"""

from transformers import PreTrainedModel

from dmaxlit.backbone.transformers_internals import cache_mark, decoder_layers, set_cache_mark


def enable_activation_checkpointing(model: PreTrainedModel) -> None:
    """Keep only each layer's input while training, and recompute the layer in the backward pass."""
    model.activation_checkpointing_enable({"use_reentrant": False})
    if supports_cache_under_checkpointing(model):
        for layer in decoder_layers(model):
            set_cache_mark(layer, True)


def supports_cache_under_checkpointing(model: PreTrainedModel) -> bool:
    """Return whether layers can use a cache once :func:`enable_activation_checkpointing` has been called."""
    layers = decoder_layers(model)
    return bool(layers) and all(cache_mark(layer) is not None for layer in layers)


def can_checkpoint_with_cache(model: PreTrainedModel) -> bool:
    """Return whether layers use a cache although they are recomputed."""
    return supports_cache_under_checkpointing(model) and all(cache_mark(layer) for layer in decoder_layers(model))


def disable_cache_under_checkpointing(model: PreTrainedModel) -> None:
    """Record that the model itself removes the cache from recomputed layers, as GPT-2 does."""
    for layer in decoder_layers(model):
        set_cache_mark(layer, False)
