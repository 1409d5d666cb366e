"""Self-contained Lightning checkpoints, which include the model's config, its tokenizer and our metadata as text."""

import json
import pickle
import zipfile
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from dmaxlit.backbone.auxiliary import AuxiliaryModel
from dmaxlit.backbone.auxiliary_source import auxiliary_of_weights, write_auxiliary
from dmaxlit.backbone.denoiser import Denoiser
from dmaxlit.backbone.formats.generation_config import GENERATION_CONFIG_FILE, read_generation_config
from dmaxlit.backbone.formats.model_folder import model_of_weights, write_folder
from dmaxlit.backbone.lora import LoraSettings, merged_model
from dmaxlit.backbone.mask_embedding import embedding_table
from dmaxlit.checkpoints.atomic_io import refuse_damaged
from dmaxlit.checkpoints.lightning_internals import SHARDED_REST_FILE
from dmaxlit.checkpoints.schema import check_checkpoint
from dmaxlit.checkpoints.scratch import scratch_folder
from dmaxlit.checkpoints.sharded import check_shards, is_sharded_checkpoint, weights_of_shards
from dmaxlit.errors import UserError, describe_value, reason_of
from dmaxlit.files import expanded
from dmaxlit.tokens import SpecialTokens

_MODEL = "backbone."  # prefix of the model's weights in a module's
_AUXILIARY = "backbone.auxiliary."  # likewise, of the auxiliary model's


def checkpoint_metadata(backbone: Denoiser, metadata: dict[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint needs, in addition to the weights, to be loaded by itself; texts only."""
    with scratch_folder("the tokenizer of a checkpoint") as folder:
        # Several chat templates would otherwise be files of a folder inside it.
        backbone.tokenizer.save_pretrained(folder, save_jinja_files=False)
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    lora = None if backbone.lora is None else {**asdict(backbone.lora), "embedding": backbone.embedding_name}
    auxiliary = None if backbone.auxiliary is None else json.dumps(backbone.auxiliary.settings(), default=str)
    return {
        "auxiliary": auxiliary,
        "lora": None if lora is None else json.dumps(lora),
        "config": json.dumps(backbone.model.config.to_dict(), default=str),
        "generation_config": backbone.model.generation_config.to_json_string(),
        **_as_texts(files),
        "metadata": json.dumps(metadata),
    }


def _as_texts(files: Mapping[str, bytes]) -> dict[str, dict[str, str]]:
    """Return a tokenizer's files as texts, and those that are none, such as SentencePiece's, in base64."""
    texts, others = {}, {}
    for name, content in files.items():
        try:
            texts[name] = content.decode("utf-8")
        except UnicodeDecodeError:
            others[name] = b64encode(content).decode("ascii")
    return {"tokenizer": texts, **({"tokenizer_base64": others} if others else {})}


def read_checkpoint(checkpoint: str | Path, verify: bool = True) -> dict[str, Any]:
    """Read a Lightning checkpoint of ours with ``weights_only``: nothing in it is executed.

    Its tensors stay in the file until they are used. A sharded checkpoint has its weights in other files;
    ``state_dict`` is then empty.

    Args:
        checkpoint: The file, or the folder of a sharded one.
        verify: Whether to read the whole file, or all files, once and compare all checksums. Without it, the tensors
            may be damaged.

    Raises:
        UserError: If the file is missing, damaged, or not a checkpoint of ours.
    """
    path = Path(expanded(checkpoint))
    is_folder = is_sharded_checkpoint(path)
    if is_folder:
        check_shards(path, contents=verify)
        path = path / SHARDED_REST_FILE
    if not path.is_file():
        raise UserError(f"checkpoint: expected a file, got {str(path)!r} (no such file)")
    is_archive = zipfile.is_zipfile(path)
    if is_archive:
        refuse_damaged(path, tensors=verify)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, zipfile.BadZipFile, KeyError) as error:
        reason = str(error).strip().partition("\n")[0].partition(". ")[0]
        raise UserError(f"checkpoint: {str(path)!r} cannot be read, it may be truncated ({reason})") from error
    if is_folder and isinstance(content, dict):
        content["state_dict"] = {}
    return check_checkpoint(content, str(path))


def _tokenizer(payload: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    files = {name: text.encode("utf-8") for name, text in payload["tokenizer"].items()}
    files |= {name: b64decode(text) for name, text in payload.get("tokenizer_base64", {}).items()}
    with scratch_folder("the tokenizer of a checkpoint") as folder:
        for name, content in files.items():
            (folder / Path(name).name).write_bytes(content)
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return tokenizer


def _generation_config(text: str) -> GenerationConfig:
    with scratch_folder("the settings in a checkpoint") as folder:  # one that is read from a file is saved as it was
        (folder / GENERATION_CONFIG_FILE).write_text(text, encoding="utf-8")
        config = read_generation_config(folder)
    assert config is not None, "the file exists"
    return config


def _model(
    payload: Mapping[str, Any], weights: dict[str, Tensor], tokenizer: PreTrainedTokenizerBase
) -> PreTrainedModel:
    for name, weight in weights.items():
        if name.endswith("weight") and not weight.is_floating_point():
            raise UserError(f"checkpoint: {name}: expected floating-point numbers, got {describe_value(weight)}")
    settings = json.loads(payload["config"])
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    if payload.get("lora") is None:
        return model_of_weights(config, weights)
    lora = json.loads(payload["lora"])
    embedding_name = lora.pop("embedding")
    return merged_model(config, weights, LoraSettings(**lora), embedding_name, SpecialTokens.of(tokenizer).mask_id)


@dataclass(frozen=True)
class StoredModel:
    """The model of a checkpoint, as an export has it.

    Args:
        model: The model with its weights in their stored type; buffers that no weight holds have no values.
        tokenizer: Its tokenizer.
        metadata: Content of ``dmaxlit.json``.
        auxiliary: The auxiliary model, if it has one.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    metadata: dict[str, Any]
    auxiliary: AuxiliaryModel | None = None


def stored_model(checkpoint: str | Path) -> StoredModel:
    """Read the model of a Lightning checkpoint; nothing but its tokenizer's files is written, for a moment.

    Args:
        checkpoint: A ``.ckpt`` file, or sharded checkpoint, written by ``fit``.

    Raises:
        UserError: If the file is missing, damaged, or not a checkpoint of ours.
    """
    checkpoint = expanded(checkpoint)
    content = read_checkpoint(checkpoint)
    payload = content["dmaxlit"]
    # Copied out of the file, which may change while the model is used.
    stored = weights_of_shards(checkpoint) if is_sharded_checkpoint(checkpoint) else _copied(content["state_dict"])
    weights = {
        name.removeprefix(_MODEL).removeprefix("model."): tensor
        for name, tensor in stored.items()
        if name.startswith(_MODEL) and not name.startswith(_AUXILIARY)  # the others are a subclass's own
    }
    beside = {name.removeprefix(_AUXILIARY): tensor for name, tensor in stored.items() if name.startswith(_AUXILIARY)}
    auxiliary = None
    try:
        tokenizer = _tokenizer(payload)
        model = _model(payload, weights, tokenizer)
        if payload.get("auxiliary") is not None:
            ids = embedding_table(model).shape[0]
            auxiliary = auxiliary_of_weights(json.loads(payload["auxiliary"]), beside, tokenizer, ids)
        if payload.get("generation_config") is not None:  # checkpoints of earlier versions have none
            model.generation_config = _generation_config(payload["generation_config"])
    except UserError:
        raise
    except Exception as error:  # a damaged config can make any line of transformers fail
        raise UserError(f"checkpoint: cannot make a model of {str(checkpoint)!r} ({reason_of(error)})") from error
    return StoredModel(model, tokenizer, json.loads(payload["metadata"]), auxiliary)


def _copied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies; those that share memory, as tied weights do, share it again."""
    copies = {(weight.data_ptr(), weight.shape, weight.stride()): weight.clone() for weight in weights.values()}
    return {name: copies[weight.data_ptr(), weight.shape, weight.stride()] for name, weight in weights.items()}


def checkpoint_to_folder(checkpoint: str | Path, folder: Path) -> None:
    """Write the model of a Lightning checkpoint as a model folder.

    Args:
        checkpoint: A ``.ckpt`` file, or sharded checkpoint, written by ``fit``.
        folder: Folder to write.

    Raises:
        UserError: If the file is missing, damaged, or not a checkpoint of ours.
    """
    stored = stored_model(checkpoint)
    also = None if stored.auxiliary is None else partial(write_auxiliary, stored.auxiliary)
    write_folder(folder, stored.model, stored.tokenizer, stored.metadata, also=also)


def weights_beside_the_model(checkpoint: str | Path) -> dict[str, Tensor]:
    """Return the weights of a checkpoint that are not the model's, as a subclass of our module adds them.

    Args:
        checkpoint: A ``.ckpt`` file, or sharded checkpoint, written by ``fit``.

    Raises:
        UserError: If the file is missing, damaged, or not a checkpoint of ours.
    """
    checkpoint = expanded(checkpoint)
    stored = read_checkpoint(checkpoint)["state_dict"]
    if is_sharded_checkpoint(checkpoint):
        stored = weights_of_shards(checkpoint)
    return {name: tensor for name, tensor in stored.items() if not name.startswith(_MODEL)}
