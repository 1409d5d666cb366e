"""Files of a checkpoint: its configuration, and its weights, read by tensor and written by shard."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType
from typing import Any

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from dmaxlit.backbone.transformers_internals import parse_size
from dmaxlit.errors import UserError, reason_of

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth")


@dataclass(frozen=True)
class LazyTensor:
    """Stored tensors, or slices of them, joined along the first axis; ``tensor[...]`` reads it.

    A slice of a safetensors file behaves the same, so transformers can load either.

    Args:
        slices: Tensors in safetensors files, each with an index into its first axis (None: all of it).
        shape: Shape of the result.
        dtype: Type of the result.
    """

    slices: tuple[tuple[Any, int | slice | None], ...]
    shape: tuple[int, ...]
    dtype: torch.dtype

    def __getitem__(self, key: EllipsisType) -> Tensor:
        """Read the tensor."""
        tensors = [stored[...] if index is None else stored[index] for stored, index in self.slices]
        tensor: Tensor = tensors[0] if len(tensors) == 1 else torch.cat(tensors)
        assert tuple(tensor.shape) == self.shape, "the header of a file gives the shape of its tensors"
        return tensor

    def row(self, index: int) -> "LazyTensor":
        """Select entry ``index`` of the first axis."""
        return self._slice(index, self.shape[1:])

    def rows(self, start: int, stop: int) -> "LazyTensor":
        """Select entries ``start`` to ``stop`` of the first axis."""
        return self._slice(slice(start, stop), (stop - start, *self.shape[1:]))

    def _slice(self, index: int | slice, shape: tuple[int, ...]) -> "LazyTensor":
        ((stored, sliced_by),) = self.slices
        assert sliced_by is None, "only whole stored tensors are sliced"
        return LazyTensor(((stored, index),), shape, self.dtype)

    @staticmethod
    def joined(tensors: Sequence["LazyTensor"]) -> "LazyTensor":
        """Concatenate tensors along the first axis."""
        first = tensors[0]
        rows = sum(tensor.shape[0] for tensor in tensors)
        slices = tuple(entry for tensor in tensors for entry in tensor.slices)
        return LazyTensor(slices, (rows, *first.shape[1:]), first.dtype)


def read_config(folder: Path) -> dict[str, Any]:
    """Read a model folder's ``config.json``.

    Raises:
        UserError: If it cannot be read, is not a JSON object, or has a dropout that is no probability, which torch
            refuses only in training.
    """
    path = folder / "config.json"
    config = read_object(path)
    model_type = config.get("model_type")
    if not isinstance(model_type, str | None):
        raise UserError(f"pretrained: {str(path)!r}: model_type: expected a text, got {model_type!r:.80}")
    for name, value in config.items():
        is_dropout = "dropout" in name or name.endswith("pdrop")
        if is_dropout and isinstance(value, (int, float)) and not 0 <= value <= 1:
            raise UserError(f"pretrained: {str(path)!r}: {name}: expected a number from 0 to 1, got {value}")
    return config


def read_object(path: Path) -> dict[str, Any]:
    """Read a file of a model folder that holds a JSON object.

    Raises:
        UserError: If it cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"pretrained: {str(path)!r} cannot be read ({reason_of(error)})") from error
    if not isinstance(content, dict):
        raise UserError(f"pretrained: expected an object in {str(path)!r}, got a {type(content).__name__}")
    return content


def weight_files(folder: Path) -> dict[Path, list[str]]:
    """List the files of a checkpoint, each with the tensors it holds according to the index, if there is an index.

    Raises:
        UserError: If a file is missing, or there are no safetensors.
    """
    index = folder / INDEX_FILE
    files = {folder / name: tensors for name, tensors in weight_names(folder).items()}
    if index.is_file():
        for path in files:
            if not path.is_file():
                raise UserError(f"pretrained: {str(index)!r} names {path.name}, which does not exist")
        return files
    if (folder / WEIGHTS_FILE).is_file():
        return files
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise UserError(
            f"pretrained: expected safetensors in {str(folder)!r}, got pickle ({pickles[0]}), which can run code when "
            "read and is not; where you trust it: python -c 'import torch, safetensors.torch as s; s.save_file("
            f'torch.load("{pickles[0]}", weights_only=True), "{WEIGHTS_FILE}")\''
        )
    raise UserError(f"pretrained: expected {WEIGHTS_FILE} or {INDEX_FILE} in {str(folder)!r}, found neither")


def weight_names(folder: Path) -> dict[str, list[str]]:
    """Return the names that :func:`weight_files` looks for, in a folder that need not have more than the index.

    Raises:
        UserError: If the index is damaged.
    """
    index = folder / INDEX_FILE
    return _indexed(index) if index.is_file() else {WEIGHTS_FILE: []}


def check_stored_types(files: Iterable[Path]) -> None:
    """Refuse weights that are stored as anything but floating-point numbers; transformers would cast them silently.

    Args:
        files: Safetensors files. Only their headers are read.

    Raises:
        UserError: For the first, or if a file cannot be read.
    """
    for path in files:
        for name, stored in _slices(path).items():
            dtype = stored.get_dtype()
            if name.endswith("weight") and dtype not in (*DTYPES, "F64"):  # buffers may be integers
                raise UserError(f"pretrained: {path.name}: {name}: expected one of {', '.join(DTYPES)}, got {dtype}")


def open_weights(folder: Path) -> dict[str, LazyTensor]:
    """Open the tensors of a checkpoint; none is read yet.

    Raises:
        UserError: If a file is missing, damaged, or lacks a tensor of the index; or if a tensor is not of a supported
            type.
    """
    tensors: dict[str, LazyTensor] = {}
    for path, names in weight_files(folder).items():
        stored = _open_file(path)
        missing = [name for name in names if name not in stored]
        if missing:
            raise UserError(f"pretrained: {str(path)!r} lacks {missing[0]}, which {INDEX_FILE} locates there")
        tensors.update(stored)
    return tensors


def _indexed(index: Path) -> dict[str, list[str]]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"pretrained: {str(index)!r} is not an index of shards ({error!r})") from error
    names = weight_map.values() if isinstance(weight_map, dict) else [None]
    if not all(isinstance(file, str) and Path(file).name == file for file in names):
        raise UserError(f"pretrained: expected a weight_map that names files of the same folder in {str(index)!r}")
    files: dict[str, list[str]] = {}
    for name, file in weight_map.items():
        files.setdefault(file, []).append(name)
    return dict(sorted(files.items()))


def _open_file(path: Path) -> dict[str, LazyTensor]:
    slices = _slices(path)
    dtypes = {name: stored.get_dtype() for name, stored in slices.items()}
    for name, dtype in dtypes.items():
        if dtype not in DTYPES:
            raise UserError(f"pretrained: {path.name}: {name}: expected one of {', '.join(DTYPES)}, got {dtype}")
    return {
        name: LazyTensor(((stored, None),), tuple(stored.get_shape()), DTYPES[dtypes[name]])
        for name, stored in slices.items()
    }


def _slices(path: Path) -> dict[str, Any]:
    try:
        file: Any = safe_open(path, framework="pt")
        return {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"pretrained: {str(path)!r} cannot be read, it may be truncated ({reason})") from error


def shard_size(text: str) -> int:
    """Return the bytes of a size such as ``5GB`` or ``500MB``.

    Raises:
        UserError: If the text is not a size.
    """
    try:
        size = parse_size(text)
    except (ValueError, IndexError) as error:
        raise UserError(f"max_shard_size: expected a size such as 5GB or 500MB, got {text!r}") from error
    if size < 1:
        raise UserError(f"max_shard_size: expected at least 1 byte, got {text!r}")
    return size


def write_weights(
    tensors: Mapping[str, LazyTensor],
    folder: Path,
    max_shard_size: int,
    casts: Mapping[str, torch.dtype] | None = None,
) -> None:
    """Write tensors as a checkpoint, with a progress bar; at most one shard is in memory.

    Args:
        tensors: Tensors by name, in the order of writing.
        folder: Folder to write to.
        max_shard_size: Bytes of the largest file; a larger tensor gets a separate file.
        casts: Types of the tensors that are not written in their stored type.
    """
    dtypes = {name: tensor.dtype for name, tensor in tensors.items()} | dict(casts or {})
    sizes = {name: torch.Size(tensor.shape).numel() * dtypes[name].itemsize for name, tensor in tensors.items()}
    plan = split_state_dict_into_shards_factory(
        sizes,
        get_storage_size=lambda size: size,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard_size,
    )
    with tqdm(total=sum(sizes.values()), unit="B", unit_scale=True, desc="converting") as bar:
        for file, members in plan.filename_to_tensors.items():
            shard: dict[str, Tensor] = {}
            for name in members:
                shard[name] = tensors[name][...].to(dtypes[name]).contiguous()
                bar.update(sizes[name])
            save_file(shard, folder / file, metadata={"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": dict(sorted(plan.tensor_to_filename.items()))}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
