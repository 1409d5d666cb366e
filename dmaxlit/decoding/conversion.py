"""The same decoding in the settings of other engines: SGLang and diffusers.

Both know thresholds for masks and for edits, and disagree on 0: an edit threshold of 0.0 replaces every token of which
the model prefers another in SGLang, as here, and turns editing off in diffusers.
"""

from typing import Any

from dmaxlit.decoding.base import DECODERS, Decoder
from dmaxlit.decoding.edit import EditDecoder
from dmaxlit.decoding.one_token import OneTokenDecoder
from dmaxlit.decoding.threshold import ThresholdDecoder
from dmaxlit.errors import UserError, check_at_least

__all__ = ["to_diffusers", "to_sglang"]

# The top-1 probability is at least 1 / vocabulary size, so every confidence is above it.
_EDIT_EVERYTHING = 1e-9


def to_sglang(decoder: Decoder) -> dict[str, Any]:
    """Return the settings of SGLang that decode as a decoder does.

    ``algorithm`` is the value of its flag ``--dllm-algorithm``; ``config`` is the content of the YAML file of
    ``--dllm-algorithm-config``.

    Args:
        decoder: A ``threshold``, ``one_token`` or ``edit`` decoder. SGLang has no SPD.

    Raises:
        UserError: For any other, or an option that SGLang has not.
    """
    threshold, edit = _thresholds(decoder, "SGLang")
    if not isinstance(decoder, EditDecoder):
        return {"algorithm": "LowConfidence", "config": {"threshold": threshold}}
    config = {"threshold": threshold, "edit_threshold": edit, "max_post_edit_steps": decoder.max_post_edit_steps}
    return {"algorithm": "JointThreshold", "config": {**config, "penalty_lambda": 0}}


def to_diffusers(decoder: Decoder, block_length: int) -> dict[str, Any]:
    """Return the arguments of diffusers' ``LLaDA2Pipeline`` that decode as a decoder does.

    All but ``max_post_steps`` and ``eos_early_stop``, which only edits need, are also those of its
    ``BlockRefinementScheduler``.

    Ask the pipeline for a ``gen_length`` of at least ``num_inference_steps``: a block, and one more token for edits. It
    makes no more steps in a block than that, so for shorter responses it fills several masks in each, whatever the
    threshold, and may leave out the edits behind the last one.

    Args:
        decoder: A ``threshold``, ``one_token`` or ``edit`` decoder. diffusers has no SPD.
        block_length: Tokens per block, at least 1.

    Raises:
        UserError: For any other, or an option that diffusers has not.
    """
    check_at_least(1, block_length=block_length)
    threshold, edit = _thresholds(decoder, "diffusers")
    # As many steps as tokens: then a step decides at least one.
    settings: dict[str, Any] = {
        "block_length": block_length,
        "num_inference_steps": block_length,
        "minimal_topk": 1,
        "threshold": threshold,
        "editing_threshold": None if edit == 1 else edit or _EDIT_EVERYTHING,
    }
    if isinstance(decoder, EditDecoder) and edit < 1:
        if decoder.max_post_edit_steps == 0:
            raise UserError("max_post_edit_steps: expected at least 1 for diffusers, which always makes one, got 0")
        settings["max_post_steps"] = decoder.max_post_edit_steps - 1  # it stops after one more than this
        settings["num_inference_steps"] += 1  # else a block that fills one token per step would end unedited
        settings["eos_early_stop"] = False  # else the block that holds an EOS would
    return settings


def _thresholds(decoder: Decoder, engine: str) -> tuple[float, float]:
    """Return the thresholds above which masks are filled and tokens edited; an edit threshold of 1 never edits.

    Raises:
        UserError: If the engine does not decode as the decoder does.
    """
    name = DECODERS.name_of(type(decoder)) or type(decoder).__name__
    if type(decoder) not in (ThresholdDecoder, OneTokenDecoder, EditDecoder):
        raise UserError(f"decoder: expected edit, one_token or threshold, which {engine} has too, got {name!r}")
    for option in ("max_tokens", "_max_steps"):
        value = getattr(decoder, option, None)
        if value is not None:
            raise UserError(f"{option.lstrip('_')}: expected none for {engine}, which has no such limit, got {value}")
    if isinstance(decoder, EditDecoder):
        return decoder.tau_mask, decoder.tau_edit
    return decoder.threshold if isinstance(decoder, ThresholdDecoder) else 1.0, 1.0
