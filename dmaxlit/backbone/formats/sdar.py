"""Dense SDAR checkpoints (arXiv 2510.06303) as transformers' ``Qwen3ForCausalLM``.

They are block-diffusion models already, with blocks of 4 tokens, or of 8 to 64, which some do not say in their config,
but by their name (SDAR-8B-Chat-b32). Their modelling code is derived from Qwen3's, with the same tensors under the same
names. Only the attention mask differs, which dmaxlit passes in. An export of one is an ordinary Qwen3 folder.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from lightning.pytorch.utilities import rank_zero_warn
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from dmaxlit.backbone.formats.weight_files import open_weights
from dmaxlit.errors import DMaxWarning, UserError, reason_of

MODEL_TYPE = "sdar"
_DEFAULT_BLOCK, _BLOCK_IN_NAME = 4, re.compile(r"-b(4|8|16|32|64)\b")

_MAPPED = {
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "tie_word_embeddings",
    "attention_bias",
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
}
# Fields that decide the shape of the model, and are therefore not guessed.
_REQUIRED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rope_theta",
)
_FIXED: dict[str, Any] = {"rope_scaling": None, "use_sliding_window": False, "quantization_config": None}
_HARMLESS = {
    "model_type",
    "architectures",
    "auto_map",  # names remote code, which is never loaded
    "transformers_version",
    "_name_or_path",
    "torch_dtype",
    "dtype",
    "use_cache",
    "sliding_window",  # of no effect without use_sliding_window
    "max_window_layers",
    "rope_theta",  # goes into rope_parameters
    "block_size",
    "mask_token_id",
    "fuse_cross_entropy",  # which kernel their loss uses
    # Switches of their training framework: attention, memory, experts on several GPUs.
    "attn_implementation",
    "debug",
    "ep_size",
    "micro_forward",
    "skip_checkpoint",
    "use_deepep",
}


def to_qwen3(stored: Mapping[str, Any], source: str) -> Qwen3Config:
    """Return the configuration of the same model in transformers.

    Args:
        stored: Content of the published ``config.json``.
        source: Its origin, for messages.

    Raises:
        UserError: If a field is not understood, missing, or has a value that is not supported.
    """
    unknown = sorted(stored.keys() - _MAPPED - _FIXED.keys() - _HARMLESS)
    if unknown:
        raise _refusal(source, f"expected only known fields of SDAR, got {', '.join(unknown)}")
    missing = [name for name in _REQUIRED if name not in stored]
    if missing:
        raise _refusal(source, f"expected the field {missing[0]}, found none")
    for name, expected in _FIXED.items():
        if stored.get(name, expected) != expected:
            raise _refusal(source, f"{name}: expected {expected!r}, got {stored[name]!r}")
    settings = {name: stored[name] for name in _MAPPED & stored.keys()}
    try:
        return Qwen3Config(**settings, rope_parameters={"rope_type": "default", "rope_theta": stored["rope_theta"]})
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise _refusal(source, reason_of(error)) from error


def block_length_of(stored: Mapping[str, Any], source: str) -> int | None:
    """Return the block length that a published SDAR was trained with; None for any other model's configuration.

    Warns if it has to be guessed.

    Args:
        stored: Content of ``config.json``.
        source: Folder or hub id.

    Raises:
        UserError: If it is no number of tokens.
    """
    if stored.get("model_type") != MODEL_TYPE:
        return None
    length = stored.get("block_size")
    if length is None and (named := _BLOCK_IN_NAME.search(Path(source).absolute().name)):
        length = int(named[1])
    if length is None:
        rank_zero_warn(
            f"block_length: taken to be {_DEFAULT_BLOCK}, which neither config.json (block_size) nor the name (-b8) of "
            f"{source!r} says; to set another: fit --model.backbone.block_length, export --block_length, or "
            "block_length of dmaxlit.load",
            category=DMaxWarning,
        )
        length = _DEFAULT_BLOCK
    if type(length) is not int or length < 1:
        raise UserError(f"pretrained: block_size: expected a number of tokens, at least 1, got {length!r:.80}")
    return length


def model_from_sdar(folder: Path, stored: Mapping[str, Any], attention: str, dtype: torch.dtype) -> PreTrainedModel:
    """Load a published checkpoint.

    Args:
        folder: The checkpoint.
        stored: Its configuration.
        attention: ``sdpa``, ``eager`` or ``flex_attention``.
        dtype: Type of the parameters.

    Raises:
        UserError: If it is incomplete, damaged, or not an SDAR checkpoint.
    """
    config = to_qwen3(stored, str(folder))
    try:
        loaded: Any = Qwen3ForCausalLM.from_pretrained(
            None,
            config=config,
            state_dict=open_weights(folder),
            attn_implementation=attention,
            dtype=dtype,
            output_loading_info=True,
        )
    except RuntimeError as error:  # a tensor of another shape
        raise UserError(f"pretrained: {str(folder)!r}: expected the weights of SDAR ({reason_of(error)})") from error
    model, info = loaded
    wrong = sorted(str(key) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for key in info[kind])
    if wrong:
        raise UserError(f"pretrained: {str(folder)!r}: expected the weights of SDAR, got others, such as {wrong[0]}")
    assert isinstance(model, PreTrainedModel), "transformers returns a model"
    return model


def _refusal(source: str, what: str) -> UserError:
    return UserError(f"pretrained: config.json of {source!r}: {what}")
