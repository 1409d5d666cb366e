"""Convert a LLaDA2-MoE checkpoint to the form of transformers and back, file by file."""

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer
from transformers import Glm4MoeConfig

from dmaxlit.backbone.formats.engine_settings import SGLANG_FILE
from dmaxlit.backbone.formats.generation_config import allow_generation, read_generation_config, refuse_generation
from dmaxlit.backbone.formats.hub import NAMED_TEMPLATES, fetch
from dmaxlit.backbone.formats.llada2 import ROUTER_BIAS, as_glm, as_published
from dmaxlit.backbone.formats.llada2_config import MODEL_TYPES, from_glm, to_glm
from dmaxlit.backbone.formats.metadata import AUXILIARY_FOLDER, read_metadata
from dmaxlit.backbone.formats.model_card import CARD_FILE, edited_card
from dmaxlit.backbone.formats.weight_files import (
    LazyTensor,
    open_weights,
    read_config,
    read_object,
    shard_size,
    write_weights,
)
from dmaxlit.errors import UserError, reason_of, renaming_argument
from dmaxlit.files import expanded, staged

Form = Literal["transformers", "llada2"]

# Copied with the weights: tokenizer, settings of generation and engines, remote code (which is not run), cards.
COPIED_FILES = ("*.json", "*.txt", "*.jinja", "*.model", "*.py", "*.md", "LICENSE*", SGLANG_FILE)
_TOKENIZER, _TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
_NOT_COPIED = ("config.json", "model.safetensors.index.json", "pytorch_model.bin.index.json")


def convert(
    source: str | Path,
    dest: str | Path,
    to: Form | None = None,
    max_shard_size: str = "5GB",
    dtype: str | None = None,
    like: str | Path | None = None,
) -> Form:
    """Write a checkpoint in the other form; tensors are copied bit by bit, one output shard at a time.

    The auxiliary model of an export, if it has one, is copied as it is.

    Args:
        source: Published checkpoint, or a model that came from one, in transformers' form: a folder or hub id.
        dest: Folder to write; it must not exist.
        to: Form to write; default: the one that ``source`` does not have.
        max_shard_size: Largest file, as ``5GB``. Twice that much memory is enough.
        dtype: Type to write the weights in, such as ``bfloat16``; default: their stored type. The router's bias keeps
            its type, since small differences of the biased scores decide between experts.
        like: Published checkpoint whose other files (tokenizer, modelling code, generation settings) replace the
            source's. A model exported after training needs them to be served by the published engine.

    Returns:
        The form that was written.

    Raises:
        UserError: If the source cannot be converted, or ``dest`` exists; then nothing is written.
    """
    size, cast = shard_size(max_shard_size), _dtype(dtype)
    dest = Path(expanded(dest))
    refuse_existing(dest)
    folder = fetch(str(source), COPIED_FILES, weights=False)
    stored = read_config(folder)
    is_published = stored.get("model_type") in MODEL_TYPES
    form: Form = to or ("transformers" if is_published else "llada2")
    if form not in ("transformers", "llada2"):
        raise UserError(f"to: expected transformers or llada2, got {form!r}")
    if is_published == (form == "llada2"):
        kind = "published checkpoint" if is_published else f"model in transformers' form ({stored.get('model_type')})"
        raise UserError(f"to: expected the form that {str(source)!r} is not in, got {form} for a {kind}")
    copied_from = [folder]
    if like is not None:
        with renaming_argument("like", "pretrained"):
            copied_from = [_same_vocabulary(fetch(str(like), COPIED_FILES, weights=False), folder), folder]
    for path in copied_from:
        read_generation_config(path)  # refuses damaged files before anything is written
        read_metadata(path)
        if (path / _TOKENIZER_CONFIG).is_file():
            read_object(path / _TOKENIZER_CONFIG)
    for origin in copied_from:
        _refuse_links_out(origin, "source" if origin == folder else "like")
    tensors, config = _translate(str(source), folder, stored, form, cast)
    casts = {} if cast is None else {name: cast for name in tensors if not name.endswith(ROUTER_BIAS)}
    _write(dest, tensors, casts, config, copied_from, size)
    return form


def refuse_existing(dest: Path) -> None:
    """Refuse to write to a path that exists.

    Raises:
        UserError: If ``dest`` exists.
    """
    if dest.exists() or dest.is_symlink():
        raise UserError(f"output: expected a folder that does not exist yet, got {str(dest)!r}")


def _translate(
    name: str, folder: Path, stored: dict[str, Any], form: Form, cast: torch.dtype | None
) -> tuple[dict[str, LazyTensor], dict[str, Any]]:
    """Return tensors and configuration in the form to write; weights are downloaded once the latter is understood."""
    source = str(folder)
    if form == "transformers":
        ours = to_glm(stored, source)
        tensors = as_glm(open_weights(fetch(name, COPIED_FILES)), ours, source)
        ours.dtype = cast or ours.dtype or tensors["model.embed_tokens.weight"].dtype
        return tensors, json.loads(ours.to_json_string())
    settings = {name: value for name, value in stored.items() if name != "model_type"}
    if stored.get("model_type") != Glm4MoeConfig.model_type or not isinstance(stored.get("llada2"), dict):
        raise UserError(
            f"model: expected a model that came from LLaDA2-MoE, got a {stored.get('model_type')} in {source!r}"
        )
    ours = Glm4MoeConfig(**settings)
    ours.dtype = cast or ours.dtype
    published = from_glm(ours, source)
    # Experts are written separately, which is the published model type without a suffix.
    published["model_type"] = MODEL_TYPES[0]
    return as_published(open_weights(fetch(name, COPIED_FILES)), ours, source), published


def _write(
    dest: Path,
    tensors: dict[str, LazyTensor],
    casts: dict[str, torch.dtype],
    config: dict[str, Any],
    copied_from: list[Path],
    size: int,
) -> None:
    """Write the complete folder or nothing; the last of ``copied_from`` is the source."""
    with staged(dest, "output") as staging:
        write_weights(tensors, staging, size, casts)
        (staging / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for folder in copied_from:
            _copy_files(folder, staging)
        if (auxiliary := copied_from[-1] / AUXILIARY_FOLDER).is_dir():
            shutil.copytree(auxiliary, staging / AUXILIARY_FOLDER)
        if config["model_type"] not in MODEL_TYPES:
            refuse_generation(staging)
        else:
            allow_generation(staging)
            if edited_card(staging) is None:  # ours describes the form of transformers
                (staging / CARD_FILE).unlink(missing_ok=True)
            _name_class_for_all(staging / _TOKENIZER_CONFIG)


def _same_vocabulary(like: Path, folder: Path) -> Path:
    """Return the first folder, if its tokenizer has the same tokens as the second's."""
    one, two = map(_vocabulary, (like, folder))
    if one is not None and two is not None and one != two:
        raise UserError(f"like: expected a tokenizer with the tokens of {str(folder)!r}, got others in {str(like)!r}")
    return like


def _vocabulary(folder: Path) -> dict[str, int] | None:
    """Return the ids of the tokens of the tokenizer in a folder; None if there is none."""
    path = folder / _TOKENIZER
    if not path.is_file():
        return None
    try:
        return Tokenizer.from_file(str(path)).get_vocab()
    except Exception as error:  # the library raises no subclass of it
        raise UserError(f"pretrained: {str(path)!r} cannot be read ({reason_of(error)})") from error


def _name_class_for_all(path: Path) -> None:
    """Name the tokenizer's class in a way that transformers before version 5 also understands."""
    if path.is_file():
        settings = read_object(path)
        if settings.get("tokenizer_class") == "TokenizersBackend":
            path.write_text(
                json.dumps({**settings, "tokenizer_class": "PreTrainedTokenizerFast"}, indent=2) + "\n",
                encoding="utf-8",
            )


def _copied_files(folder: Path) -> list[Path]:
    paths = sorted({path for pattern in (*COPIED_FILES, NAMED_TEMPLATES) for path in folder.glob(pattern)})
    return [path for path in paths if path.is_file() and path.name not in _NOT_COPIED]


def _copy_files(folder: Path, staging: Path) -> None:
    for path in _copied_files(folder):
        copy = staging / path.relative_to(folder)
        if not copy.exists():
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)


def _refuse_links_out(folder: Path, argument: str) -> None:
    """Refuse a checkpoint whose links would make a copy of files that are not its own.

    The hub's cache has links from ``snapshots/REVISION/`` to ``blobs/``, next to ``snapshots/``.
    """
    root = folder.resolve()
    root = root.parent.parent if root.parent.name == "snapshots" else root
    for path in (*_copied_files(folder), *(folder / AUXILIARY_FOLDER).rglob("*")):
        if not path.resolve().is_relative_to(root):
            raise UserError(
                f"{argument}: expected files, or links within {str(folder)!r}, got {path.name!r}, a link to "
                f"{str(path.resolve())!r}; if it belongs to the model, put a copy in its place"
            )


def _dtype(name: str | None) -> torch.dtype | None:
    if name is None:
        return None
    if name not in ("float32", "bfloat16", "float16"):
        raise UserError(f"dtype: expected float32, bfloat16 or float16, got {name!r}")
    dtype: torch.dtype = getattr(torch, name)
    return dtype
