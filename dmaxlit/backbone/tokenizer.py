"""Where a model folder and its tokenizer come from, and the special tokens a denoiser needs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, Glm4MoeConfig, PreTrainedTokenizerBase, Qwen3Config

from dmaxlit.backbone.formats.llada2_config import MODEL_TYPES
from dmaxlit.backbone.formats.sdar import MODEL_TYPE as SDAR
from dmaxlit.backbone.formats.weight_files import read_config
from dmaxlit.errors import UserError
from dmaxlit.tasks import TASKS

__all__ = ["MASK_TOKEN", "ensure_special_tokens", "load_tokenizer", "name_special_tokens", "require_rows"]

MASK_TOKEN = "<|mask|>"


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a built-in task (by its name), of a folder, or of a hub id.

    Raises:
        UserError: If it cannot be read.
    """
    if source in TASKS:
        built_in = TASKS.get(source).tokenizer()
        if built_in is None:
            raise UserError(f"tokenizer: task {source!r} has no tokenizer of its own; give a folder or hub id")
        return built_in
    folder = Path(source)
    model_type = read_config(folder).get("model_type") if (folder / "config.json").is_file() else None
    # Transformers does not know these published model types, only those whose mathematics is theirs.
    stand_ins: dict[Any, Any] = {**dict.fromkeys(MODEL_TYPES, Glm4MoeConfig), SDAR: Qwen3Config}
    config = stand_ins[model_type]() if model_type in stand_ins else None
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            source, config=config, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"tokenizer: expected a task name, folder or hub id, got {source!r} ({reason})") from error
    return tokenizer


def ensure_special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Give the tokenizer a mask token if it has none; return the tokens that were added.

    Its embedding is :mod:`dmaxlit.backbone.mask_embedding`'s business.
    """
    if tokenizer.mask_token_id is not None:
        return []
    tokenizer.add_special_tokens({"mask_token": MASK_TOKEN})
    return [MASK_TOKEN]


def name_special_tokens(
    tokenizer: PreTrainedTokenizerBase,
    mask_token: str | None = None,
    eos_token: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> None:
    """Say which tokens of the vocabulary are mask and EOS, where the tokenizer does not.

    Args:
        tokenizer: The tokenizer; given its special tokens in place.
        mask_token: Text of the token that stands for one not decided yet. Default: the tokenizer's own mask token, else
            the one ``mask_token_id`` in ``config`` names, else ``<|mask|>`` if it is a token.
        eos_token: Text of the token that ends a response. Default: the tokenizer's own, else what ``eos_token_id`` in
            ``config`` names.
        config: The checkpoint's configuration.

    Raises:
        UserError: If a text is no token of the vocabulary, or the configuration contradicts the tokenizer.
    """
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    for kind, given in (("mask_token", mask_token), ("eos_token", eos_token)):
        told = (config or {}).get(f"{kind}_id")
        told = told[0] if isinstance(told, list) and told else told
        own = getattr(tokenizer, kind)
        if given is not None and given not in vocabulary:
            raise UserError(f"{kind}: expected the text of a token of the vocabulary, got {given!r}")
        if kind == "mask_token" and given is None and own is not None and told not in (None, vocabulary.get(own)):
            raise UserError(
                f"mask_token: expected tokenizer and config.json to agree, got {own!r} ({vocabulary.get(own)}) and "
                f"mask_token_id {told}; say which"
            )
        text = given or own or next((text for text, number in vocabulary.items() if number == told), None)
        if text is None and kind == "mask_token" and MASK_TOKEN in vocabulary:
            text = MASK_TOKEN
        if text is not None and text != own:
            tokenizer.add_special_tokens({kind: text})


def require_rows(tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Refuse a tokenizer with ids beyond the embedding, which cannot be the one the checkpoint was trained with.

    Raises:
        UserError: If so.
    """
    largest = max(tokenizer.get_vocab().values())
    if largest >= rows:
        raise UserError(f"tokenizer: expected ids below the embedding's {rows} rows, got up to {largest}")
