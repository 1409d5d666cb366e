"""Where a model folder and its tokenizer come from, and the special tokens a denoiser needs."""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from dmaxlit.data.tasks import TASKS
from dmaxlit.errors import UserError

__all__ = ["BUILTIN_MODELS", "MASK_TOKEN", "ensure_special_tokens", "load_tokenizer", "resolve_folder"]

BUILTIN_MODELS = Path(__file__).parent.parent / "models"
MASK_TOKEN = "<|mask|>"


def resolve_folder(source: str) -> Path | str:
    """A local folder, a shipped model (``builtin:NAME``), or else a hub id, which is returned as it is.

    Raises:
        UserError: If a shipped model of that name does not exist, or a path has no model in it.
    """
    if source.startswith("builtin:"):
        name = source.removeprefix("builtin:")
        if not (BUILTIN_MODELS / name / "config.json").is_file():
            known = sorted(path.parent.name for path in BUILTIN_MODELS.glob("*/config.json"))
            raise UserError(f"pretrained: unknown built-in model {name!r}; known: {', '.join(known) or 'none'}")
        return BUILTIN_MODELS / name
    path = Path(source).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"pretrained: expected a model folder with a config.json, found none in {source!r}")
        return path
    looks_like_path = source.startswith((".", "/", "~")) or source.count("/") > 1 or path.exists()
    if looks_like_path or not source:
        raise UserError(
            f"pretrained: expected a model folder, a hub id or builtin:NAME, got {source!r} (no such folder)"
        )
    return source


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
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source)
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
