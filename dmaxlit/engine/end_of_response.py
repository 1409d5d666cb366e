"""The tokens that end a response."""

from typing import Any

from dmaxlit.backbone.denoiser import Denoiser


def eos_ids(denoiser: Denoiser) -> frozenset[int]:
    """Return the ids that end a response: the tokenizer's EOS and all that the model's configs name as such.

    Chat models end a turn with a token of its own (``<|im_end|>``, ``<end_of_turn>``), which their
    ``generation_config.json`` or ``config.json`` lists next to EOS. Configs also hold default ids that mean nothing in
    the model's vocabulary, so an id counts only if the tokenizer has added it as a token apart from the text.

    Args:
        denoiser: The model.
    """
    model: Any = denoiser.model
    named: set[int] = set()
    for config in (getattr(model, "generation_config", None), getattr(model, "config", None)):
        value = getattr(config, "eos_token_id", None)
        named |= {index for index in (value if isinstance(value, list) else [value]) if isinstance(index, int)}
    named -= {denoiser.special.mask_id}
    if not named <= {denoiser.special.eos_id}:
        tokenizer = denoiser.tokenizer
        named &= tokenizer.added_tokens_decoder.keys() | set(tokenizer.all_special_ids)
    return frozenset(named | {denoiser.special.eos_id})
