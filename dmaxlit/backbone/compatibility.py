"""Requirements on a model for masks, embeddings and logits to be exact; any other is refused with the reason."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from dmaxlit.errors import UserError

_LOGIT_TRANSFORMS = ("logits_scaling", "logit_scale")


def check_finite(model: PreTrainedModel, source: str) -> None:
    """Refuse weights that are not finite, with which every answer is empty.

    Raises:
        UserError: For the first.
    """
    for name, weight in model.named_parameters():
        if not weight.isfinite().all():
            dtype = str(weight.dtype).removeprefix("torch.")
            raise UserError(f"pretrained: {source}: {name}: expected finite numbers, got nan or inf in {dtype}")


def refuse_unsupported(model: PreTrainedModel, max_length: int, attention: str) -> None:
    """Refuse a model for which masks, embeddings or logits would be silently wrong.

    Args:
        model: The model, with or without weights.
        max_length: Longest sequence it is used on; a sliding window of at least that many tokens hides nothing.
        attention: ``sdpa``, ``eager`` or ``flex_attention``.

    Raises:
        UserError: With the reason.
    """
    config = model.config
    name = config.model_type
    for setting in _LOGIT_TRANSFORMS:
        if getattr(config, setting, None) not in (None, 1.0):
            raise UserError(f"backbone: {name} rescales its logits ({setting}), which is not supported")
    if getattr(config, "attn_logit_softcapping", None) is not None and attention != "eager":
        raise UserError(
            f"attn_implementation: expected eager for {name}, which caps its attention scores, got {attention!r}"
        )
    if not isinstance(model.get_input_embeddings(), nn.Embedding):
        kind = type(model.get_input_embeddings()).__name__
        raise UserError(f"backbone: expected {name} to embed tokens by one table, got {kind}")
    if getattr(config, "hidden_size_per_layer_input", None):
        raise UserError(f"backbone: {name} feeds token ids to every layer, which hybrid embeddings do not support")
    kinds = set(getattr(config, "layer_types", None) or []) - {"full_attention", "sliding_attention"}
    if kinds:
        raise UserError(
            f"backbone: expected full attention in every layer, got {', '.join(sorted(kinds))} in {name}: "
            "a block attends to all earlier ones"
        )
    original = _longrope_length(config)
    if original is not None and original < max_length:
        raise UserError(
            f"backbone.max_length: expected at most {original}, got {max_length}: beyond it {name} (LongRoPE) computes "
            "all rows of a batch with other frequencies"
        )
    window = _window(config)
    if window is not None and window < max_length:
        raise UserError(
            f"backbone.max_length: expected at most {window}, the sliding window of {name}, got {max_length}: "
            "a block attends to all earlier ones"
        )


def refuse_without_positions(config: PretrainedConfig) -> None:
    """Refuse a model that cannot be told the positions of its tokens, before it is built.

    Raises:
        UserError: If its config has no number of positions (recurrent models, ALiBi, positions relative to the order of
            the input), or says that it uses ALiBi.
    """
    if getattr(config, "alibi", False):
        raise UserError(f"backbone: expected a model that is given position_ids, got {config.model_type} with ALiBi")
    if int(getattr(config, "max_position_embeddings", None) or 0) < 1:
        raise UserError(
            "backbone: expected a model that is given position_ids (max_position_embeddings in its config), got "
            f"{config.model_type}"
        )


def _window(config: PretrainedConfig) -> int | None:
    """Return the number of tokens that the layer with the narrowest window attends to; None if no layer has one."""
    window: int | None = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return window if "sliding_attention" in kinds else None
    return window if getattr(config, "use_sliding_window", True) else None


def _longrope_length(config: PretrainedConfig) -> int | None:
    """Return the number of tokens up to which LongRoPE keeps its short frequencies; None without LongRoPE."""
    settings = getattr(config, "rope_parameters", None) or {}
    nested = [one for one in settings.values() if isinstance(one, dict)]  # by the type of the layer
    lengths = [
        one.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
        for one in (nested or [settings])
        if one.get("rope_type") == "longrope"
    ]
    return min((int(length) for length in lengths if length is not None), default=None)


def logit_transform(config: Any) -> Callable[[Tensor], Tensor] | None:
    """Return what the model applies to its logits after the output embedding, if anything: Gemma 2 caps them softly."""
    cap: float | None = getattr(config, "final_logit_softcapping", None)
    return None if cap is None else lambda logits: cap * (logits / cap).tanh()
