"""Model folders, which ``export`` writes and both ``dmaxlit.load`` and transformers read.

``config.json``, ``model.safetensors`` and the tokenizer's files are those of transformers. ``dmaxlit.json`` adds what
only dmaxlit needs: the block length, a shortened context, and how and on what task the model was trained. ``README.md``
is the model's card.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from dmaxlit.backbone.compatibility import refuse_without_positions
from dmaxlit.backbone.formats.config_checks import config_of, refuse_multimodal
from dmaxlit.backbone.formats.engine_settings import DIFFUSERS_FILE, SGLANG_FILE, write_engine_settings
from dmaxlit.backbone.formats.generation_config import GENERATION_CONFIG_FILE, allow_generation, refuse_generation
from dmaxlit.backbone.formats.llada2 import model_from_llada2
from dmaxlit.backbone.formats.llada2_config import MODEL_TYPES, came_from_llada2
from dmaxlit.backbone.formats.metadata import AUXILIARY_FOLDER, METADATA_FILE, check_metadata, is_autoregressive
from dmaxlit.backbone.formats.model_card import CARD_FILE, card_hash, edited_card, make_card
from dmaxlit.backbone.formats.sdar import MODEL_TYPE as SDAR
from dmaxlit.backbone.formats.sdar import model_from_sdar
from dmaxlit.backbone.formats.weight_files import INDEX_FILE, check_stored_types, read_config, weight_files
from dmaxlit.backbone.transformers_internals import save_in_stored_form, unread_settings, without_progress_bars
from dmaxlit.errors import UserError, reason_of
from dmaxlit.files import require_replaceable, staged
from dmaxlit.tokens import num_ids

#: Files that an export has only sometimes. Of an earlier one, it would be read with the new model's other files.
OPTIONAL_FILES = (
    "model*.safetensors",
    INDEX_FILE,
    SGLANG_FILE,
    DIFFUSERS_FILE,
    GENERATION_CONFIG_FILE,
    "chat_template.jinja",
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
)
#: Its folders, likewise.
OPTIONAL_FOLDERS = (AUXILIARY_FOLDER, "additional_chat_templates")


class AttentionError(UserError):
    """A model does not have the attention implementation; it may have another."""


@without_progress_bars()
def model_from_folder(
    source: Path, attention: str, dtype: torch.dtype, weights: dict[str, Tensor] | None = None
) -> PreTrainedModel:
    """Load a causal language model from a folder; only safetensors are read, and no code of the checkpoint is run.

    Args:
        source: The folder.
        attention: ``sdpa``, ``eager`` or ``flex_attention``.
        dtype: Type of the parameters.
        weights: The weights, if they are in memory and not in the folder, which then has the form of transformers.

    Raises:
        AttentionError: If it has no such attention.
        UserError: If it is missing, damaged or incomplete.
    """
    stored = read_config(source)
    if stored.get("model_type") in MODEL_TYPES:
        return model_from_llada2(source, stored, attention, dtype)
    if stored.get("model_type") == SDAR:
        return model_from_sdar(source, stored, attention, dtype)
    options: dict[str, Any] = {"attn_implementation": attention, "dtype": dtype, "output_loading_info": True}
    try:
        if weights is None:
            check_stored_types(weight_files(source))
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source, trust_remote_code=False, use_safetensors=True, **options
            )
        else:
            config = AutoConfig.from_pretrained(source)
            cls: Any = type(empty_model_of(config))
            loaded = cls.from_pretrained(None, config=config, state_dict=weights, **options)
            save_in_stored_form(loaded[0])
            loaded[0].config.name_or_path = loaded[0].name_or_path = str(source)  # else the text "None"
    except UserError:
        raise
    except Exception as error:  # a damaged config can make any line of transformers fail
        _refuse_attention(error, attention)
        raise UserError(f"pretrained: cannot load a model from {str(source)!r} ({reason_of(error)})") from error
    model, info = loaded
    problems = [key for kind in ("missing_keys", "mismatched_keys") for key in info.get(kind, [])]
    if problems:
        raise UserError(
            f"pretrained: {str(source)!r} lacks or misshapes {len(problems)} weights, "
            f"for instance {min(map(str, problems))}"
        )
    assert isinstance(model, PreTrainedModel), "transformers gives a model"
    return model


def _refuse_attention(error: Exception, attention: str) -> None:
    """Refuse the attention implementation, if an error of transformers says that the model has no such.

    Raises:
        AttentionError: If so.
    """
    reason = reason_of(error)
    if "does not support an attention implementation" in reason:
        others = "eager" if attention == "sdpa" else "sdpa or eager"
        raise AttentionError(
            f"attn_implementation: expected {others} for {reason.split()[0]}, which has no other, got {attention!r}"
        ) from error


def with_its_attention(load: Callable[[str], PreTrainedModel]) -> PreTrainedModel:
    """Return a model with the attention implementation of torch (SDPA), or its own if it lacks that.

    For models whose attention the user does not choose.

    Args:
        load: Makes the model with an attention implementation.
    """
    try:
        return load("sdpa")
    except AttentionError:
        return load("eager")


def was_trained_with_masks(stored: Mapping[str, Any]) -> bool:
    """Return whether a ``config.json`` is of a published diffusion model, whose vocabulary has a mask token."""
    return came_from_llada2(stored) or stored.get("model_type") == SDAR


def refuse_to_defer(source: Path, stored: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose weights cannot be read slice by slice.

    Raises:
        UserError: If it has its published form.
    """
    if stored.get("model_type") in (*MODEL_TYPES, SDAR):
        command = "export" if stored["model_type"] == SDAR else "convert"  # of which only LLaDA2 has another form
        raise UserError(
            f"backbone.defer: expected the form of transformers, got a published checkpoint; "
            f"`dmaxlit {command} --model {source} --output FOLDER` writes it"
        )


def empty_model_from_folder(
    source: Path, stored: Mapping[str, Any], attention: str, dtype: torch.dtype
) -> PreTrainedModel:
    """Build the model of a folder on the meta device: shapes without weights; only the config is read.

    Args:
        source: The folder.
        stored: Content of its ``config.json``.
        attention: ``sdpa``, ``eager`` or ``flex_attention``.
        dtype: Type of the parameters.

    Raises:
        UserError: If the config is not understood.
    """
    config = config_of(source, stored)
    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(
                config, attn_implementation=attention, dtype=dtype
            )
    except Exception as error:
        raise UserError(f"pretrained: cannot read the config of {str(source)!r} ({reason_of(error)})") from error
    return model


def model_from_config(
    config: dict[str, Any], tokenizer: PreTrainedTokenizerBase, attention: str, dtype: torch.dtype
) -> PreTrainedModel:
    """Build a fresh model; vocabulary size and special ids are the tokenizer's.

    Raises:
        AttentionError: If it has no such attention.
        UserError: If the model type or a setting is missing or unknown.
    """
    settings = dict(config)
    model_type = settings.pop("model_type", None)
    if not isinstance(model_type, str):
        raise UserError(f"backbone.config: expected a model_type such as qwen3, got {model_type!r}")
    refuse_multimodal(model_type, "backbone.config: ")
    end = num_ids(tokenizer)
    settings.setdefault("vocab_size", end)
    if settings["vocab_size"] < end:
        raise UserError(
            f"backbone.config.vocab_size: expected at least the tokenizer's {end}, got {settings['vocab_size']}"
        )
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    try:
        model_config = AutoConfig.for_model(model_type, **{**ids, **settings})
        _refuse_unknown_settings(model_config, settings)
        refuse_without_positions(model_config)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            model_config, attn_implementation=attention, dtype=dtype
        )
    except UserError:
        raise
    except Exception as error:
        _refuse_attention(error, attention)
        raise UserError(f"backbone.config: cannot build a {model_type!r} model ({reason_of(error)})") from error
    return model


def _refuse_unknown_settings(config: PretrainedConfig, settings: Iterable[str]) -> None:
    # What the class takes under another name is not among the fields under its own.
    undeclared = set(settings) & set(config.to_dict()) - set(AutoConfig.for_model(config.model_type).to_dict())
    unknown = unread_settings(empty_model_of(config), undeclared) if undeclared else []
    if unknown:
        raise UserError(f"backbone.config: {config.model_type} has no setting {', '.join(unknown)}")


def empty_model_of(config: PretrainedConfig) -> PreTrainedModel:
    """Build a model without weights, on the meta device."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model


def model_of_weights(config: PretrainedConfig, weights: dict[str, Tensor]) -> PreTrainedModel:
    """Build a model from all of its weights, in their stored type, to be saved."""
    model = empty_model_of(config)
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    return model


@without_progress_bars()
def write_folder(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    metadata: dict[str, Any],
    weights: dict[str, Tensor] | None = None,
    also: Callable[[Path], None] | None = None,
) -> None:
    """Write a complete model folder or nothing; an existing one is replaced only when the new one is complete.

    A card (``README.md``) that a user wrote or edited in the existing one is kept, and so is what no export writes:
    pictures of the card for instance, or ``.git``.

    Args:
        folder: Folder to write.
        model: The model.
        tokenizer: Its tokenizer.
        metadata: Content of ``dmaxlit.json``.
        weights: The weights, if the model itself is sharded.
        also: Writes further files into the folder.

    Raises:
        UserError: As :func:`check_output_folder`; also if the folder cannot be written, or ``metadata`` hold what would
            be refused when they are read.
    """
    folder = Path(folder)
    check_metadata(metadata, "output")
    check_output_folder(folder)
    with staged(folder, "output", (*OPTIONAL_FILES, *OPTIONAL_FOLDERS)) as staging:
        model.save_pretrained(staging, state_dict=weights)
        tokenizer.save_pretrained(staging)
        if also is not None:
            also(staging)
        (allow_generation if is_autoregressive(metadata) else refuse_generation)(staging)
        card = make_card(folder.name, model.config, metadata).encode()
        (staging / CARD_FILE).write_bytes(edited_card(folder) or card)
        metadata = {**metadata, "card": card_hash(card)}
        write_engine_settings(staging, metadata)
        (staging / METADATA_FILE).write_text(json.dumps(metadata, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def check_output_folder(folder: Path) -> None:
    """Refuse a folder that an export would not replace.

    Raises:
        UserError: If it exists and was not written by ``export``, or cannot be replaced.
    """
    require_replaceable(folder, "output")
    if folder.exists() and not (folder / METADATA_FILE).is_file() and (folder.is_file() or any(folder.iterdir())):
        raise UserError(f"output: expected a new folder or one written by export, got {str(folder)!r}")
