"""Self-contained Lightning checkpoints, which include the model's config, its tokenizer and our metadata as text."""

import json
import pickle
import tempfile
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer

from dmaxlit.backbone.denoiser import Denoiser
from dmaxlit.backbone.formats.model_folder import model_of_weights, write_folder
from dmaxlit.backbone.lora import LoraSettings, merged_model
from dmaxlit.checkpoints.atomic_io import damage
from dmaxlit.checkpoints.lightning_internals import SHARDED_REST_FILE
from dmaxlit.checkpoints.sharded import check_shards, is_sharded_checkpoint, weights_of_shards
from dmaxlit.errors import UserError
from dmaxlit.tokens import SpecialTokens


def checkpoint_metadata(backbone: Denoiser, metadata: dict[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint needs, in addition to the weights, to be loaded by itself; texts only."""
    with tempfile.TemporaryDirectory() as folder:
        backbone.tokenizer.save_pretrained(folder)
        files = {path.name: path.read_text() for path in Path(folder).iterdir() if path.is_file()}
    lora = None if backbone.lora is None else {**asdict(backbone.lora), "embedding": backbone.embedding_name}
    return {
        "lora": None if lora is None else json.dumps(lora),
        "config": json.dumps(backbone.model.config.to_dict(), default=str),
        "tokenizer": files,
        "metadata": json.dumps(metadata),
    }


def read_checkpoint(checkpoint: str | Path) -> dict[str, Any]:
    """Read a Lightning checkpoint of ours with ``weights_only``: nothing in it is executed.

    A sharded checkpoint has its weights in other files; ``state_dict`` is then empty.

    Raises:
        UserError: If the file is missing, damaged, or not a checkpoint of ours.
    """
    path = Path(checkpoint)
    is_folder = is_sharded_checkpoint(path)
    if is_folder:
        check_shards(path)
        path = path / SHARDED_REST_FILE
    if not path.is_file():
        raise UserError(f"checkpoint: expected a file, got {str(path)!r} (no such file)")
    if zipfile.is_zipfile(path) and (reason := damage(path)) is not None:
        raise UserError(f"checkpoint: {str(path)!r} cannot be read, it is damaged ({reason})")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, zipfile.BadZipFile, KeyError) as error:
        reason = str(error).strip().partition("\n")[0].partition(". ")[0]
        raise UserError(f"checkpoint: {str(path)!r} cannot be read, it may be truncated ({reason})") from error
    if is_folder and isinstance(content, dict):
        content["state_dict"] = {}
    if not isinstance(content, dict) or not isinstance(content.get("dmaxlit"), dict) or "state_dict" not in content:
        raise UserError(f"checkpoint: expected one written by dmaxlit, got {str(path)!r}")
    return content


def checkpoint_to_folder(checkpoint: str | Path, folder: Path) -> None:
    """Write the model of a Lightning checkpoint as a model folder.

    Args:
        checkpoint: A ``.ckpt`` file, or sharded checkpoint, written by ``fit``.
        folder: Folder to write.

    Raises:
        UserError: If the file is missing, damaged, or not a checkpoint of ours.
    """
    content = read_checkpoint(checkpoint)
    payload = content["dmaxlit"]
    settings = json.loads(payload["config"])
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    stored = weights_of_shards(checkpoint) if is_sharded_checkpoint(checkpoint) else content["state_dict"]
    weights = {name.removeprefix("backbone.").removeprefix("model."): tensor for name, tensor in stored.items()}
    with tempfile.TemporaryDirectory() as source:
        for name, text in payload["tokenizer"].items():
            (Path(source) / Path(name).name).write_text(text)
        tokenizer = AutoTokenizer.from_pretrained(source)
    if payload.get("lora") is not None:
        lora = json.loads(payload["lora"])
        embedding_name = lora.pop("embedding")
        model = merged_model(config, weights, LoraSettings(**lora), embedding_name, SpecialTokens.of(tokenizer).mask_id)
    else:
        model = model_of_weights(config, weights)
    write_folder(folder, model, tokenizer, json.loads(payload["metadata"]))
