"""Loading a tokenizer, and the special tokens that a denoiser needs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, Glm4MoeConfig, PreTrainedTokenizerBase, Qwen3Config

from dmaxlit.backbone.formats.llada2_config import MODEL_TYPES
from dmaxlit.backbone.formats.sdar import MODEL_TYPE as SDAR
from dmaxlit.backbone.formats.weight_files import read_config
from dmaxlit.errors import UserError, reason_of
from dmaxlit.files import expanded
from dmaxlit.tasks import TASKS
from dmaxlit.tokens import num_ids

MASK_TOKEN = "<|mask|>"


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer that a user names: that of a built-in task, of a folder, or of a hub id.

    Raises:
        UserError: If it cannot be read.
    """
    if source in TASKS:
        built_in = TASKS.get(source).tokenizer()
        if built_in is None:
            raise UserError(f"tokenizer: task {source!r} has no tokenizer; give a folder or hub id")
        return built_in
    return stored_tokenizer(expanded(source))


def stored_tokenizer(source: Path | str) -> PreTrainedTokenizerBase:
    """Load the tokenizer in a folder, whatever its name, or of a hub id.

    Raises:
        UserError: If it cannot be read.
    """
    folder = Path(source)
    model_type = read_config(folder).get("model_type") if (folder / "config.json").is_file() else None
    # transformers does not know the published model types, only the equivalent ones that we load them as.
    equivalents: dict[Any, Any] = {**dict.fromkeys(MODEL_TYPES, Glm4MoeConfig), SDAR: Qwen3Config}
    config = equivalents[model_type]() if model_type in equivalents else None
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            str(source), config=config, trust_remote_code=False
        )
    except Exception as error:  # a damaged file can make any line of transformers fail
        raise UserError(
            f"tokenizer: expected a task name, folder or hub id, got {str(source)!r} ({reason_of(error)})"
        ) from error
    return tokenizer


def ensure_special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Add a mask token to a tokenizer without one; return the tokens that were added.

    For its embedding see :mod:`dmaxlit.backbone.mask_embedding`.

    Raises:
        UserError: If it got the id of another token: a tokenizer numbers what is added by its length, which is below
            its highest id where it leaves ids out.
    """
    if tokenizer.mask_token_id is not None:
        return []
    tokenizer.add_special_tokens({"mask_token": MASK_TOKEN})
    mask_id = tokenizer.mask_token_id
    owner = next((text for text, id in tokenizer.get_vocab().items() if id == mask_id and text != MASK_TOKEN), None)
    if owner is not None:
        raise UserError(
            f"mask_token: expected the text of a token that nothing else uses, since an added {MASK_TOKEN} would share "
            f"id {mask_id} with {owner!r} in this tokenizer, which leaves ids out; got none"
        )
    return [MASK_TOKEN]


def name_special_tokens(
    tokenizer: PreTrainedTokenizerBase,
    mask_token: str | None = None,
    eos_token: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> None:
    """Set the mask and EOS token of a tokenizer that does not name them.

    Args:
        tokenizer: The tokenizer; changed in place.
        mask_token: Text of the mask token. Default: the tokenizer's, else the one that ``mask_token_id`` in ``config``
            names, else ``<|mask|>`` if it is a token.
        eos_token: Text of the token that ends a response. Default: the tokenizer's, else the one that ``eos_token_id``
            in ``config`` names.
        config: The checkpoint's configuration.

    Raises:
        UserError: If a text is not a token of the vocabulary, or the configuration contradicts the tokenizer.
    """
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    for kind, setting in (("mask_token", mask_token), ("eos_token", eos_token)):
        stored_id = (config or {}).get(f"{kind}_id")
        stored_id = stored_id[0] if isinstance(stored_id, list) and stored_id else stored_id
        current = getattr(tokenizer, kind)
        if setting is not None and setting not in vocabulary:
            raise UserError(f"{kind}: expected the text of a token of the vocabulary, got {setting!r}")
        is_ambiguous = current is not None and stored_id not in (None, vocabulary.get(current))
        if kind == "mask_token" and setting is None and is_ambiguous:
            raise UserError(
                f"mask_token: expected tokenizer and config.json to agree, got {current!r} ({vocabulary.get(current)}) "
                f"and mask_token_id {stored_id}; say which"
            )
        text = setting or current or next((text for text, index in vocabulary.items() if index == stored_id), None)
        if text is None and kind == "mask_token" and MASK_TOKEN in vocabulary:
            text = MASK_TOKEN
        if text is not None and text != current:
            tokenizer.add_special_tokens({kind: text})


def require_rows(tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Refuse a tokenizer with ids beyond the embedding, since the checkpoint was not trained with it.

    Raises:
        UserError: If it has any.
    """
    if (end := num_ids(tokenizer)) > rows:
        raise UserError(f"tokenizer: expected ids below the embedding's {rows} rows, got up to {end - 1}")
