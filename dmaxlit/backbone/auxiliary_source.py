"""Where an auxiliary model comes from: settings, the folder ``auxiliary/`` of an export, or a checkpoint's weights.

The folder holds a transformers checkpoint, ``think.safetensors`` with the two think tokens, and ``auxiliary.json`` with
the length of its spans.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from dmaxlit.backbone.auxiliary import AuxiliaryModel, AuxiliarySettings, check_spans, merged_auxiliary
from dmaxlit.backbone.compatibility import check_finite
from dmaxlit.backbone.formats.hub import fetch
from dmaxlit.backbone.formats.metadata import AUXILIARY_FOLDER
from dmaxlit.backbone.formats.model_folder import model_from_config, model_from_folder, with_its_attention
from dmaxlit.backbone.lora import LoraSettings
from dmaxlit.backbone.tokenizer import stored_tokenizer
from dmaxlit.errors import UserError, reason_of

_SETTINGS, _THINK = "auxiliary.json", "think.safetensors"


def auxiliary_from_settings(
    settings: AuxiliarySettings, tokenizer: PreTrainedTokenizerBase, vocab_size: int, dtype: torch.dtype
) -> AuxiliaryModel:
    """Read or initialise the causal language model of an auxiliary model.

    Args:
        settings: The settings, with ``pretrained`` or ``config``.
        tokenizer: The denoiser's tokenizer.
        vocab_size: Ids of the denoiser.
        dtype: Type of the weights.

    Raises:
        UserError: If the model cannot be read or built, or has another tokenizer.
    """
    if settings.pretrained is None:
        config = settings.config or {}
        model = with_its_attention(lambda attention: model_from_config(config, tokenizer, attention, dtype))
    else:
        refuse_other_tokenizer(
            stored_tokenizer(fetch(settings.pretrained, weights=False)), tokenizer, settings.pretrained
        )
        folder = fetch(settings.pretrained)
        model = with_its_attention(lambda attention: model_from_folder(folder, attention, dtype))
        check_finite(model, settings.pretrained)
    return AuxiliaryModel(model, tokenizer, vocab_size, settings.span_length)


def auxiliary_to_go_on_with(settings: AuxiliarySettings, stored: AuxiliaryModel | None) -> AuxiliaryModel:
    """Return the auxiliary model that a denoiser was exported with.

    Args:
        settings: The settings, without ``pretrained`` and ``config``.
        stored: The denoiser's auxiliary model, if it has one.

    Raises:
        UserError: If it has none, or one with spans of another length.
    """
    if stored is None:
        raise UserError("auxiliary: expected pretrained or config, for the denoiser has none yet, got neither")
    if stored.span_length != settings.span_length:
        raise UserError(
            f"auxiliary.span_length: expected {stored.span_length}, as of the stored auxiliary model, "
            f"got {settings.span_length}"
        )
    return stored


def refuse_other_tokenizer(other: PreTrainedTokenizerBase, tokenizer: PreTrainedTokenizerBase, source: str) -> None:
    """Refuse an auxiliary model to which ids mean other tokens; the mask token it need not have.

    Args:
        other: Its tokenizer.
        tokenizer: The denoiser's.
        source: Its folder or hub id.

    Raises:
        UserError: If a token has another id there, or none.
    """
    theirs: dict[str, int] = other.get_vocab()
    ours: dict[str, int] = tokenizer.get_vocab()
    for token, index in ours.items():
        if theirs.get(token) != index and index != tokenizer.mask_token_id:
            raise UserError(
                f"auxiliary.pretrained: expected the denoiser's tokenizer, got another in {source!r}: token {token!r} "
                f"is {theirs.get(token, 'missing')} there and {index} here"
            )


def write_auxiliary(auxiliary: AuxiliaryModel, export: Path) -> None:
    """Write an auxiliary model, adapters merged, into the folder of its denoiser's export."""
    folder = export / AUXILIARY_FOLDER
    folder.mkdir()
    auxiliary.merged().save_pretrained(folder)
    save_file({"think": auxiliary.think.detach().contiguous().cpu()}, folder / _THINK)
    (folder / _SETTINGS).write_text(json.dumps({"span_length": auxiliary.span_length}) + "\n", encoding="utf-8")


def read_auxiliary(
    export: Path, tokenizer: PreTrainedTokenizerBase, vocab_size: int, dtype: torch.dtype
) -> AuxiliaryModel | None:
    """Read the auxiliary model of an export, frozen; None if it has none.

    Args:
        export: Folder of the export.
        tokenizer: The denoiser's tokenizer.
        vocab_size: Ids of the denoiser.
        dtype: Type of the weights.

    Raises:
        UserError: If a file of it is missing or damaged.
    """
    folder = export / AUXILIARY_FOLDER
    if not folder.is_dir():
        return None
    try:
        span_length = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))["span_length"]
        think = load_file(folder / _THINK)["think"]
    except Exception as error:  # safetensors raises its own kinds
        raise UserError(f"pretrained: cannot read {str(folder)!r} ({reason_of(error)})") from error
    check_spans(span_length, f"pretrained: {folder / _SETTINGS}: span_length")
    model = with_its_attention(lambda attention: model_from_folder(folder, attention, dtype))
    check_finite(model, str(folder))
    auxiliary = AuxiliaryModel(model, tokenizer, vocab_size, span_length)
    return with_think(auxiliary, think, str(folder)).requires_grad_(False)


def auxiliary_of_weights(
    stored: Mapping[str, Any], weights: Mapping[str, Tensor], tokenizer: PreTrainedTokenizerBase, vocab_size: int
) -> AuxiliaryModel:
    """Make the auxiliary model of a checkpoint, frozen, adapters merged.

    Args:
        stored: What :meth:`AuxiliaryModel.settings` returned.
        weights: Its weights.
        tokenizer: The denoiser's tokenizer.
        vocab_size: Ids of the denoiser.

    Raises:
        UserError: If they do not fit.
    """
    fields = dict(stored["config"])
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    inner = {name.removeprefix("model."): weight for name, weight in weights.items() if name.startswith("model.")}
    if stored.get("lora") is not None:
        inner = merged_auxiliary(config, weights, LoraSettings(**stored["lora"])).state_dict()
    with torch.random.fork_rng():  # its first weights are drawn, and replaced
        dtype = next(iter(inner.values())).dtype  # of think tokens beside adapters it may be another
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.load_state_dict(inner)
    auxiliary = AuxiliaryModel(model, tokenizer, vocab_size, stored["span_length"])
    return with_think(auxiliary, weights["think"], "checkpoint").requires_grad_(False)


def with_think(auxiliary: AuxiliaryModel, think: Tensor, source: str) -> AuxiliaryModel:
    """Return an auxiliary model with its think tokens.

    Raises:
        UserError: If they are of another shape.
    """
    if think.shape != auxiliary.think.shape:
        raise UserError(
            f"auxiliary: {source}: expected think tokens of shape {list(auxiliary.think.shape)}, "
            f"got {list(think.shape)}"
        )
    auxiliary.think = nn.Parameter(think.to(auxiliary.think))
    return auxiliary
