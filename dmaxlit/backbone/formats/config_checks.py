"""Checks of a checkpoint's ``config.json`` before anything else of it is read or downloaded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig

from dmaxlit.backbone.compatibility import refuse_without_positions
from dmaxlit.backbone.formats.llada2_config import MODEL_TYPES, to_glm
from dmaxlit.backbone.formats.sdar import MODEL_TYPE as SDAR
from dmaxlit.backbone.formats.sdar import to_qwen3
from dmaxlit.errors import UserError, reason_of


def require_language_model(stored: Mapping[str, Any], source: str) -> None:
    """Refuse a checkpoint that is not a language model with plain weights.

    Args:
        stored: Content of its ``config.json``.
        source: Its folder, or its hub id.

    Raises:
        UserError: If neither transformers nor dmaxlit knows its type, so that it could only be loaded by running the
            code in the checkpoint; if its weights are quantised; or if the language model is only a part of it.
    """
    model_type = stored.get("model_type")
    if not isinstance(model_type, str) or (model_type not in (*MODEL_TYPES, SDAR) and model_type not in CONFIG_MAPPING):
        raise UserError(
            f"pretrained: expected a model type of transformers, {MODEL_TYPES[0]} or {SDAR}, got {model_type!r} in "
            f"{source!r}; code that comes with a checkpoint is not run"
        )
    quantization = stored.get("quantization_config")
    if quantization:
        method = quantization.get("quant_method") if isinstance(quantization, dict) else None
        raise UserError(
            f"pretrained: expected weights in float32, bfloat16 or float16, got quantised ones ({method}) in {source!r}"
        )
    refuse_multimodal(model_type, f"pretrained: {source!r}: ")


def refuse_multimodal(model_type: str, where: str) -> None:
    """Refuse a type of model whose language model is only a part of it, such as the larger Gemma 3.

    Args:
        model_type: The type.
        where: Start of the message.

    Raises:
        UserError: If the settings of the language model are in a ``text_config``.
    """
    parts = getattr(CONFIG_MAPPING[model_type], "sub_configs", {}) if model_type in CONFIG_MAPPING else {}
    if "text_config" in parts:
        raise UserError(
            f"{where}expected a language model, got {model_type}, in which it is only a part (text_config); save that "
            "part as a checkpoint of its own"
        )


def require_valid_config(folder: Path, stored: Mapping[str, Any]) -> None:
    """Refuse a ``config.json`` that is not understood, or of a model without positions.

    Raises:
        UserError: With the reason.
    """
    refuse_without_positions(config_of(folder, stored))


def config_of(folder: Path, stored: Mapping[str, Any]) -> PretrainedConfig:
    """Return the configuration with which transformers makes the model of a folder.

    Args:
        folder: The folder.
        stored: Content of its ``config.json``.

    Raises:
        UserError: If it is not understood: by transformers, or by our own code, which checks every field.
    """
    if stored.get("model_type") in MODEL_TYPES:
        return to_glm(dict(stored), str(folder))
    if stored.get("model_type") == SDAR:
        return to_qwen3(stored, str(folder))
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(folder)
    except Exception as error:  # a damaged config can make any line of transformers fail
        raise UserError(f"pretrained: cannot read the config of {str(folder)!r} ({reason_of(error)})") from error
    return config
