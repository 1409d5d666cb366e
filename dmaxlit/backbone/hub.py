"""Model folders by name: local, shipped, or downloaded from the hub without anything that could run."""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from dmaxlit.backbone.tokenizer import resolve_folder
from dmaxlit.errors import UserError

__all__ = ["CONFIG_AND_TOKENIZER", "WEIGHTS_AND_TOKENIZER", "fetch"]

CONFIG_AND_TOKENIZER = ("*.json", "*.txt", "*.jinja", "*.model")
WEIGHTS_AND_TOKENIZER = ("*.safetensors", *CONFIG_AND_TOKENIZER)
_UNWANTED = ("*/*",)  # other variants live in subfolders


def fetch(source: str, files: Sequence[str] = WEIGHTS_AND_TOKENIZER) -> Path:
    """The folder of a model; one on the hub is downloaded, or taken from the cache of earlier downloads.

    Args:
        source: Folder, ``builtin:NAME``, or hub id.
        files: Patterns of the files to download; only such as are read, never run.

    Raises:
        UserError: If there is none, or the hub cannot be reached.
    """
    found = resolve_folder(source)
    if isinstance(found, Path):
        return found
    try:
        folder = Path(snapshot_download(found, allow_patterns=list(files), ignore_patterns=list(_UNWANTED)))
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"pretrained: {source!r} is no folder here, and the hub cannot be reached to look for it there"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"pretrained: {source!r} is no folder here, and no model on the hub ({reason})") from error
    if not (folder / "config.json").is_file():
        raise UserError(f"pretrained: expected a model with a config.json, found none in {source!r}")
    return folder
