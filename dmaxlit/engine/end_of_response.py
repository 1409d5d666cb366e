"""The tokens that end a response."""

from typing import Any

from transformers import PreTrainedTokenizerBase


def eos_ids(model: Any, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the ids that end a response: the tokenizer's EOS and all that the model's configs name as such.

    Chat models end a turn with a token of its own (``<|im_end|>``, ``<end_of_turn>``), which their
    ``generation_config.json`` or ``config.json`` lists next to EOS. Configs also hold default ids that mean nothing in
    the model's vocabulary, so an id counts only if the tokenizer has added it as a token apart from the text.

    Args:
        model: The language model, of transformers.
        tokenizer: Its tokenizer, which may have no EOS.
    """
    named: set[int] = set()
    for config in (getattr(model, "generation_config", None), getattr(model, "config", None)):
        value = getattr(config, "eos_token_id", None)
        named |= {index for index in (value if isinstance(value, list) else [value]) if isinstance(index, int)}
    eos: int | None = tokenizer.eos_token_id
    if named := named - {eos, tokenizer.mask_token_id}:
        named &= tokenizer.added_tokens_decoder.keys() | set(tokenizer.all_special_ids)
    return frozenset(named if eos is None else named | {eos})
