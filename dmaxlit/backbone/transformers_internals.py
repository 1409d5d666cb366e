"""Everything dmaxlit uses of transformers and huggingface_hub beyond their documented interface.

Each function names what it relies on. ``tests/backbone/test_transformers_internals.py`` has a test for each, so that a
release that changes one of them says what to mend.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub.serialization._base import parse_size_to_int
from huggingface_hub.utils import enable_progress_bars  # type: ignore[attr-defined]
from torch import nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, LoadStateDictConfig
from transformers.utils import logging as transformers_logging

_CACHE_MARK = "_can_checkpoint_with_cache"


def cache_argument(model: nn.Module) -> str:
    """Return the name of the argument by which a base model's ``forward`` takes a cache.

    ``past_key_values`` up to transformers 5.23, ``cache`` from 5.24 on.

    Args:
        model: The base model.
    """
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def decoder_layers(model: nn.Module) -> list[GradientCheckpointingLayer]:
    """Return the layers of a model in order.

    Relies on ``transformers.modeling_layers.GradientCheckpointingLayer``, the base class of every decoder layer.
    """
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def cache_mark(layer: nn.Module) -> bool | None:
    """Return whether a layer may use a cache while it is recomputed; None if this version knows no such mark.

    Relies on the attribute ``_can_checkpoint_with_cache`` of ``GradientCheckpointingLayer``.
    """
    mark: bool | None = getattr(layer, _CACHE_MARK, None)
    return mark


def set_cache_mark(layer: nn.Module, allowed: bool) -> None:
    """Set whether a layer may use a cache while it is recomputed; relies on the same attribute."""
    setattr(layer, _CACHE_MARK, allowed)


def attention_of(model: PreTrainedModel) -> str:
    """Return the name of the model's attention implementation.

    Relies on the attribute ``_attn_implementation`` of the config.
    """
    return str(model.config._attn_implementation)


def use_attention(model: PreTrainedModel, name: str, function: Callable[..., Any]) -> None:
    """Register an attention function and let a model compute with it.

    Relies on ``ALL_ATTENTION_FUNCTIONS`` and on ``config._attn_implementation`` being read in every forward.
    """
    ALL_ATTENTION_FUNCTIONS.register(name, function)
    model.config._attn_implementation = name


@contextmanager
def computing_with(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Let a model compute with another of its attention implementations inside.

    Relies on ``config._attn_implementation`` being read in every forward.
    """
    own = model.config._attn_implementation
    model.config._attn_implementation = name
    try:
        yield
    finally:
        model.config._attn_implementation = own


def embedding_scale(embedding: nn.Module) -> float:
    """Return the factor by which an embedding layer scales rows of its table.

    Relies on the attribute ``scalar_embed_scale`` of Gemma's scaled word embeddings, and ``embed_scale`` of those of
    XGLM and the relatives of BART; 1 for all others.
    """
    return float(getattr(embedding, "scalar_embed_scale", getattr(embedding, "embed_scale", 1.0)))


def load_weight_slices(model: PreTrainedModel, source: Path, files: Sequence[str], device: torch.device) -> list[str]:
    """Read safetensors into a model on the meta device, of each tensor only this rank's slice.

    Relies on the loader behind ``from_pretrained``, which renames and merges weights as it reads slices:
    ``LoadStateDictConfig``, ``_load_pretrained_model``, ``_finalize_model_loading``, ``_get_dtype_plan`` and
    ``get_model_conversion_mapping``.

    Args:
        model: The model, sharded or not.
        source: Model folder, for messages.
        files: Paths of the safetensors.
        device: Device of the weights.

    Returns:
        Names of missing weights, and names and shapes of those of another shape, sorted.
    """
    loader, conversions = cast(Any, model), cast(Any, get_model_conversion_mapping(model, None, None))
    config = LoadStateDictConfig(
        pretrained_model_name_or_path=str(source),
        device_map={"": device},
        dtype=model.dtype,
        dtype_plan=loader._get_dtype_plan(model.dtype),
        weight_mapping=conversions,
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # returned instead, so that the caller can refuse them in one line
    )
    with without_progress_bars():
        info, _ = type(loader)._load_pretrained_model(model, None, list(files), config)
        report = type(loader)._finalize_model_loading(model, config, info).to_dict()
    return sorted(str(key) for kind in ("missing_keys", "mismatched_keys") for key in report.get(kind, []))


def parse_size(text: str) -> int:
    """Return the bytes of a size such as ``5GB``.

    Relies on ``huggingface_hub.serialization._base.parse_size_to_int``, which reads the ``max_shard_size`` of
    ``save_pretrained``.

    Raises:
        ValueError: If it is not a size; also IndexError.
    """
    return parse_size_to_int(text)


def unread_settings(model: PreTrainedModel, names: Iterable[str]) -> list[str]:
    """Return the settings that a model's code does not read, sorted.

    Some published configs have fields that their class does not declare, such as Qwen3-MoE's ``head_dim``. Relies on
    the model's code naming a field that it reads as ``config.head_dim`` or ``getattr(config, "head_dim", ...)``.

    Args:
        model: The model, with or without weights.
        names: Names of settings.
    """
    code = inspect.getsource(inspect.getmodule(type(model)) or type(model))
    return sorted(name for name in names if not re.search(rf"config(\.|, [\"']){re.escape(name)}\b", code))


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Show no bars for reading and writing weights inside; bars for downloads from the hub stay.

    Relies on transformers' switch also acting on the hub's bars.
    """
    enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    enable_progress_bars()  # the line above disables the hub's too
    try:
        yield
    finally:
        if enabled:
            transformers_logging.enable_progress_bar()


def save_in_stored_form(model: PreTrainedModel) -> None:
    """Let ``save_pretrained`` write the names and layout of checkpoints, such as one tensor per expert.

    transformers does so by itself for a model it has read from such a checkpoint, not for one made of its own tensors.
    Relies on ``PreTrainedModel._weight_conversions``.
    """
    model._weight_conversions = None  # type: ignore[assignment]
