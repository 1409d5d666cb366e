"""What a checkpoint of ours holds: each field is checked once, when it is read, so that nothing later fails on it."""

import json
from collections.abc import Mapping
from typing import Any

import torch

from dmaxlit.backbone.formats.metadata import check_metadata
from dmaxlit.errors import UserError

_TEXTS = ("config", "metadata")


def check_checkpoint(content: Any, path: str) -> dict[str, Any]:
    """Return the content of a checkpoint from which a model can be made.

    Args:
        content: What was read.
        path: The file, for messages.

    Raises:
        UserError: If it is not one of ours, or a field of it is missing or of the wrong type.
    """
    if not isinstance(content, dict) or not isinstance(content.get("dmaxlit"), dict) or "state_dict" not in content:
        raise UserError(f"checkpoint: expected one written by dmaxlit, got {path!r}")
    payload = content["dmaxlit"]
    for name in _TEXTS:
        _require(isinstance(payload.get(name), str), path, f"dmaxlit.{name}", "a JSON text", payload.get(name))
        _require(isinstance(json_of(payload[name]), dict), path, f"dmaxlit.{name}", "a JSON object", payload[name])
    check_metadata(json_of(payload["metadata"]), f"checkpoint: {path}: dmaxlit.metadata")
    model_type = json_of(payload["config"]).get("model_type")
    _require(isinstance(model_type, str), path, "dmaxlit.config", "an object with a model_type", payload["config"])
    for name in ("lora", "auxiliary", "generation_config"):
        text = payload.get(name)
        _require(
            text is None or isinstance(json_of(text), dict), path, f"dmaxlit.{name}", "a JSON object or null", text
        )
    for name, files in (
        ("tokenizer", payload.get("tokenizer")),
        ("tokenizer_base64", payload.get("tokenizer_base64", {})),
    ):
        is_files = isinstance(files, dict) and all(isinstance(text, str) for item in files.items() for text in item)
        _require(is_files, path, f"dmaxlit.{name}", "the tokenizer's files, as texts by name", files)
    weights = content["state_dict"]
    is_weights = isinstance(weights, Mapping) and all(isinstance(value, torch.Tensor) for value in weights.values())
    _require(is_weights, path, "state_dict", "tensors by name", weights)
    return content


def _require(fits: bool, path: str, field: str, expected: str, value: object) -> None:
    if not fits:
        raise UserError(f"checkpoint: {path}: {field}: expected {expected}, got {value!r:.80}")


def json_of(text: object) -> Any:
    """Return what a JSON text says, or None for anything else."""
    try:
        return json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None
