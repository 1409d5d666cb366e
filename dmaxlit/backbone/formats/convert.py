"""Converting a LLaDA2-MoE checkpoint to the form of transformers and back, shard by shard, in files."""

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer
from transformers import Glm4MoeConfig

from dmaxlit.backbone.formats.hub import fetch
from dmaxlit.backbone.formats.llada2 import ROUTER_BIAS, as_glm, as_published
from dmaxlit.backbone.formats.llada2_config import MODEL_TYPES, from_glm, to_glm
from dmaxlit.backbone.formats.weight_files import LazyTensor, open_weights, read_config, shard_size, write_weights
from dmaxlit.errors import UserError
from dmaxlit.files import staged

__all__ = ["ALONG", "Form", "convert", "refuse_existing"]

Form = Literal["transformers", "llada2"]

# What stands beside the weights and goes along: tokenizer, generation settings, remote code (which is not run), cards.
ALONG = ("*.json", "*.txt", "*.jinja", "*.model", "*.py", "*.md", "LICENSE*")
_TOKENIZER = "tokenizer.json"
_NOT_ALONG = ("config.json", "model.safetensors.index.json", "pytorch_model.bin.index.json")


def convert(
    source: str | Path,
    dest: str | Path,
    to: Form | None = None,
    max_shard_size: str = "5GB",
    dtype: str | None = None,
    like: str | Path | None = None,
) -> Form:
    """Write a checkpoint in the other form. Tensors are copied bit by bit, one output shard at a time.

    Args:
        source: Published checkpoint, or a model that came from one, in transformers' form: a folder or hub id.
        dest: Folder to write; it must not exist.
        to: Form to write; default: the one that ``source`` is not in.
        max_shard_size: Largest file, as ``5GB``. Twice that much memory is enough.
        dtype: Type to write the weights in, as ``bfloat16``; default: as they are stored. The router's bias keeps its
            type, since sums of scores as close as that decide between experts.
        like: Published checkpoint whose other files (tokenizer, modelling code, generation settings) are copied in
            place of the source's: what a model exported after training needs to be served by the published engine.

    Returns:
        The form that was written.

    Raises:
        UserError: If the source cannot be converted, or ``dest`` exists. Nothing is left behind then.
    """
    size, cast = shard_size(max_shard_size), _dtype(dtype)
    folder, dest = fetch(str(source)), Path(dest)
    refuse_existing(dest)
    stored = read_config(folder)
    is_published = stored.get("model_type") in MODEL_TYPES
    form: Form = to or ("transformers" if is_published else "llada2")
    if form not in ("transformers", "llada2"):
        raise UserError(f"to: expected transformers or llada2, got {form!r}")
    if is_published == (form == "llada2"):
        found = "published checkpoint" if is_published else f"model in transformers' form ({stored.get('model_type')})"
        raise UserError(f"to: expected the form that {str(source)!r} is not in, got {form} for a {found}")
    beside = [folder] if like is None else [_same_vocabulary(fetch(str(like), ALONG), folder), folder]
    tensors, config = _translated(folder, stored, form, cast)
    casts = {} if cast is None else {name: cast for name in tensors if not name.endswith(ROUTER_BIAS)}
    _write(dest, tensors, casts, config, beside, size)
    return form


def refuse_existing(dest: Path) -> None:
    """Refuse to write where something is already.

    Raises:
        UserError: If so.
    """
    if dest.exists() or dest.is_symlink():
        raise UserError(f"dest: expected a folder that does not exist yet, got {str(dest)!r}")


def _translated(
    folder: Path, stored: dict[str, Any], form: Form, cast: torch.dtype | None
) -> tuple[dict[str, LazyTensor], dict[str, Any]]:
    """Tensors and configuration in the form wanted."""
    source = str(folder)
    if form == "transformers":
        ours = to_glm(stored, source)
        tensors = as_glm(open_weights(folder), ours, source)
        ours.dtype = cast or ours.dtype or tensors["model.embed_tokens.weight"].dtype
        return tensors, json.loads(ours.to_json_string())
    settings = {name: value for name, value in stored.items() if name != "model_type"}
    if stored.get("model_type") != Glm4MoeConfig.model_type or not isinstance(stored.get("llada2"), dict):
        raise UserError(
            f"source: expected a model that came from LLaDA2-MoE, got a {stored.get('model_type')} in {source!r}"
        )
    ours = Glm4MoeConfig(**settings)
    ours.dtype = cast or ours.dtype
    published = from_glm(ours, source)
    # Experts are written apart, which is what the published model type without a suffix means.
    published["model_type"] = MODEL_TYPES[0]
    return as_published(open_weights(folder), ours, source), published


def _write(
    dest: Path,
    tensors: dict[str, LazyTensor],
    casts: dict[str, torch.dtype],
    config: dict[str, Any],
    beside: list[Path],
    size: int,
) -> None:
    """Write the folder whole or not at all."""
    with staged(dest, "dest") as staging:
        write_weights(tensors, staging, size, casts)
        (staging / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        for folder in beside:
            _copy_along(folder, staging)
        if config["model_type"] in MODEL_TYPES:
            _name_class_for_all(staging / "tokenizer_config.json")


def _same_vocabulary(like: Path, folder: Path) -> Path:
    """The first folder, if its tokenizer has the same tokens as the second's."""
    one, two = (
        Tokenizer.from_file(str(each / _TOKENIZER)).get_vocab() if (each / _TOKENIZER).is_file() else None
        for each in (like, folder)
    )
    if one is not None and two is not None and one != two:
        raise UserError(f"like: expected a tokenizer with the tokens of {str(folder)!r}, got others in {str(like)!r}")
    return like


def _name_class_for_all(path: Path) -> None:
    """Call the tokenizer's class by the name that transformers before version 5 knows too."""
    if path.is_file():
        settings = json.loads(path.read_text())
        if settings.get("tokenizer_class") == "TokenizersBackend":
            path.write_text(json.dumps({**settings, "tokenizer_class": "PreTrainedTokenizerFast"}, indent=2) + "\n")


def _copy_along(folder: Path, staging: Path) -> None:
    for path in sorted({path for pattern in ALONG for path in folder.glob(pattern)}):
        if path.is_file() and path.name not in _NOT_ALONG and not (staging / path.name).exists():
            shutil.copyfile(path, staging / path.name)


def _dtype(name: str | None) -> torch.dtype | None:
    if name is None:
        return None
    if name not in ("float32", "bfloat16", "float16"):
        raise UserError(f"dtype: expected float32, bfloat16 or float16, got {name!r}")
    found: torch.dtype = getattr(torch, name)
    return found
