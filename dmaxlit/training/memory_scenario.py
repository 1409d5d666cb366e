"""What a memory plan is made of, and its lines."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from transformers import PreTrainedModel

ALWAYS = ("always",)
PHASES = ("training", "update", "decoding")
"""Forward and backward passes, the optimiser's update, and decoding, each with memory that the others do not need."""


@dataclass(frozen=True)
class MemoryScenario:
    """A training run, as far as its memory is concerned.

    Args:
        model: The model on the meta device, with adapters if the run has any.
        extra: Trained parameters that are not the model's.
        optimizer: Makes the optimiser from named parameters.
        gpus: Number of GPUs.
        sharded: Whether they share the model (FSDP2); otherwise each has its own.
        compute_dtype: Type of activations.
        rows: Sequences in one GPU's batch.
        length: Tokens of a sequence; all are taken to be this long.
        views: Number of views of the noise strategy that have a loss.
        checkpointing: Whether activations are recomputed in the backward pass.
        decode_rows: Prompts that decode together, 0 for none.
        divergence_views: Number of views with an objective towards distributions, such as a teacher's.
        rollout_forwards: Number of views without a loss, which are evaluated without gradients.
        feature_layer: Layer after which the strategy takes features of a frozen copy; None if it takes none.
        feature_requests: Sequences of a batch's row that it takes features of.
        copies_features: Whether the frozen copy is a copy, not the model with its adapters off.
        offloaded: Whether that copy is in main memory between two batches.
        clean_copy: Whether a view is computed with a clean copy of its row; else it is a pass over the row alone.
        whole_logits: Whether all logits of a pass are there at once, whatever their number.
        casts_weights: Whether weights of another type are computed with in ``compute_dtype`` (mixed precision), not in
            their own.
    """

    model: PreTrainedModel
    extra: tuple[Tensor, ...]
    optimizer: Callable[[Any], Optimizer]
    gpus: int
    sharded: bool
    compute_dtype: torch.dtype
    rows: int
    length: int
    views: int
    checkpointing: bool
    decode_rows: int
    divergence_views: int = 0
    rollout_forwards: int = 0
    feature_layer: int | None = None
    feature_requests: int = 0
    copies_features: bool = False
    offloaded: bool = False
    clean_copy: bool = True
    whole_logits: bool = False
    casts_weights: bool = True


@dataclass(frozen=True)
class MemoryItem:
    """A line of the plan.

    Args:
        name: What needs memory.
        size: Bytes on each GPU.
        when: ``ALWAYS``, or some of ``PHASES``.
        detail: Explanation of the size.
    """

    name: str
    size: int
    when: tuple[str, ...]
    detail: str

    def is_held(self, phase: str) -> bool:
        """Return whether it is there in a phase."""
        return self.when == ALWAYS or phase in self.when


def keys_and_values(scenario: MemoryScenario, tokens: int) -> int:
    """Return the bytes of the keys and values of all layers."""
    config = scenario.model.config
    per_token = 2 * int(config.num_hidden_layers) * kv_heads(config) * _head_dim(config)
    return tokens * per_token * scenario.compute_dtype.itemsize


def kv_heads(config: Any) -> int:
    """Return the number of heads of keys and values of a layer."""
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def _head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
