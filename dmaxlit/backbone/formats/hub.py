"""Model folders by name: local, shipped, or downloaded from the hub without anything that could run."""

import re
from collections.abc import Sequence
from glob import escape
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from dmaxlit.backbone.formats.metadata import AUXILIARY_FOLDER, METADATA_FILE
from dmaxlit.backbone.formats.weight_files import weight_names
from dmaxlit.errors import UserError, reason_of
from dmaxlit.files import expanded
from dmaxlit.tasks.sources import record_suffix

CONFIG_AND_TOKENIZER = ("*.json", "*.txt", "*.jinja", "*.model")
NAMED_TEMPLATES = "additional_chat_templates/*.jinja"  # where transformers stores chat templates beside the default one
_UNWANTED = ("*/*",)  # other variants are in subfolders
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
BUILTIN_MODELS = Path(__file__).parents[2] / "models"


def resolve_folder(source: str) -> Path | str:
    """Return a local folder, the folder of a shipped model (``builtin:NAME``), or else a hub id unchanged.

    Raises:
        UserError: If a shipped model of that name does not exist, or a path has no model in it.
    """
    if source.startswith("builtin:"):
        name = source.removeprefix("builtin:")
        if not (BUILTIN_MODELS / name / "config.json").is_file():
            known = sorted(path.parent.name for path in BUILTIN_MODELS.glob("*/config.json"))
            raise UserError(f"pretrained: unknown built-in model {name!r}; known: {', '.join(known) or 'none'}")
        return BUILTIN_MODELS / name
    path = Path(expanded(source))
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


def is_local(source: str) -> bool:
    """Return whether a source is a folder of the user's, neither shipped nor a hub id."""
    return not source.startswith("builtin:") and isinstance(resolve_folder(source), Path)


def data_set_of(source: str) -> str | None:
    """Return the hub id that a source of records names, without its ``:config``; None for files, folders, patterns."""
    name = source.partition(":")[0]
    is_file = record_suffix(source) is not None or Path(source).exists()
    return name if HUB_ID.fullmatch(name) and not name.startswith(".") and not is_file else None


def fetch(source: str, files: Sequence[str] = CONFIG_AND_TOKENIZER, weights: bool = True) -> Path:
    """Return the folder of a model; one on the hub is downloaded, or taken from the cache of earlier downloads.

    Args:
        source: Folder, ``builtin:NAME``, or hub id.
        files: Patterns of the files to download, besides chat templates. By default only data, never code.
        weights: Whether to download the weights too: the files that a model is loaded from, of several formats and
            precisions that a repository may have. With those of a model that dmaxlit exported comes its auxiliary
            model, if it has one.

    Raises:
        UserError: If there is no such model, or the hub cannot be reached.
    """
    hub_id = resolve_folder(source)
    if isinstance(hub_id, Path):
        return hub_id
    folder = _download(hub_id, allow_patterns=list(files), ignore_patterns=list(_UNWANTED))
    if not (folder / "config.json").is_file():
        raise UserError(f"pretrained: expected a model with a config.json, found none in {source!r}")
    rest = ["config.json", NAMED_TEMPLATES]  # the first because the client warns of patterns without a file
    if weights:
        rest += [escape(name) for name in weight_names(folder)]
        if (folder / METADATA_FILE).is_file():
            rest += [f"{AUXILIARY_FOLDER}/{pattern}" for pattern in ("*.safetensors", *files)]
    _download(hub_id, revision=folder.name, allow_patterns=rest)  # the commit of the others
    return folder


def _download(hub_id: str, **options: Any) -> Path:
    """Return the folder of the files of a model on the hub that the client was asked for."""
    problem = f"pretrained: {hub_id!r} is not a local folder, and"
    try:
        return Path(snapshot_download(hub_id, **options))
    except LocalEntryNotFoundError as error:
        raise UserError(f"{problem} the hub cannot be reached") from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{problem} no model on the hub ({reason})") from error
    except Exception as error:  # of whichever HTTP library the client uses
        raise UserError(f"{problem} the hub cannot be reached ({reason_of(error, with_type=True)})") from error


def hub_commit(source: str) -> str | None:
    """Return the commit of the hub's repository that a model comes from; None for one that is not from the hub.

    Args:
        source: Folder, ``builtin:NAME``, ``.ckpt`` file, or hub id of a model that has been fetched.
    """
    if source.endswith(".ckpt") or isinstance(resolve_folder(source), Path):
        return None
    folder = fetch(source, weights=False)
    return folder.name if folder.parent.name == "snapshots" else None
