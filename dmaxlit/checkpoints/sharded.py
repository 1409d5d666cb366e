"""Sharded checkpoints, folders to which each rank wrote its shards, read without executing anything in them.

``torch.distributed.checkpoint`` describes the shards in a pickle, ``.metadata``, and pickles values that are not
tensors. Both are read here with unpicklers that know only plain data and the classes of the description.
"""

import pickle
import warnings
from enum import Enum
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict_loader import load

from dmaxlit.checkpoints.lightning_internals import SHARDED_REST_FILE
from dmaxlit.checkpoints.part_checksums import DESCRIPTION_FILE, wrong_checksum
from dmaxlit.errors import UserError, reason_of

_TRUSTED = {
    "torch": {"Size", *(name for name, value in vars(torch).items() if isinstance(value, (torch.dtype, torch.layout)))},
    "torch.serialization": {"_get_layout"},
    "collections": {"OrderedDict"},
    "pathlib": {"PosixPath"},
    "pathlib._local": {"PosixPath"},
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
}


# Errors that the readers raise for a damaged file.
_UNREADABLE = (
    *(OSError, EOFError, pickle.UnpicklingError, RuntimeError),
    *(AttributeError, IndexError, KeyError, TypeError, ValueError),
)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return _enum_member
        if name not in _TRUSTED.get(module, ()):
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


def _enum_member(cls: Any, name: Any) -> Enum:
    """Stand for ``getattr``, by which early releases of Python 3.11 write the members of an enum."""
    if not (isinstance(cls, type) and issubclass(cls, Enum) and name in cls.__members__):
        raise pickle.UnpicklingError(f"it names an attribute of {cls!r:.80}")
    return cls[name]


class _PlainPlanner(DefaultLoadPlanner):
    """Reads values that are not tensors, such as learning rates, as plain data."""

    def load_bytes(self, read_item: ReadItem, value: BytesIO) -> None:
        plain = torch.load(value, weights_only=True)
        clean = BytesIO()
        torch.save(plain, clean)
        clean.seek(0)
        super().load_bytes(read_item, clean)


def is_sharded_checkpoint(path: str | Path) -> bool:
    """Return whether a path is a sharded checkpoint."""
    return (Path(path) / SHARDED_REST_FILE).is_file() and (Path(path) / DESCRIPTION_FILE).is_file()


def check_shards(path: str | Path, contents: bool = False) -> None:
    """Compare the files of shards with the description, by name and length; none is read unless asked for.

    Args:
        path: The checkpoint.
        contents: Whether to read all files and compare their checksums, which those of earlier versions do not have.

    Raises:
        UserError: If a file is missing, too short or, as far as it is read, changed.
    """
    needed: dict[str, int] = {}
    try:
        for storage in _description(path).storage_data.values():
            end = storage.offset + storage.length
            needed[storage.relative_path] = max(needed.get(storage.relative_path, 0), end)
        sizes = {name: (Path(path) / name).stat().st_size for name in needed}
    except _UNREADABLE as error:
        raise _damaged(path, error) from error
    for name, length in needed.items():
        if sizes[name] < length:
            raise _damaged(path, f"{name}: expected {length} bytes, got {sizes[name]}")
    if not contents:
        return
    try:
        changed = wrong_checksum(Path(path))
    except _UNREADABLE as error:
        raise _damaged(path, error) from error
    if changed is not None:
        raise _damaged(path, f"wrong checksum of {changed}")


def read_shards(state: dict[str, Any], path: str | Path, alone: bool = False) -> None:
    """Fill the tensors of ``state``; each rank reads its shards of those that are sharded.

    Args:
        state: Nested dictionaries; tensors are filled in place, other values replaced.
        path: The checkpoint.
        alone: Read in this process only, even if there are others.

    Raises:
        UserError: If it is damaged, lacks a tensor, or names anything but tensors and plain data.
    """
    try:
        _description(path)
        with warnings.catch_warnings():  # it warns of reading in one process, which `alone` intends
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            load(state, storage_reader=FileSystemReader(path), planner=_PlainPlanner(), no_dist=alone)
    except CheckpointException as error:  # the errors of all ranks, with tracebacks
        first = next(iter(error.failures.values()))[0]
        raise _damaged(path, first) from error
    except _UNREADABLE as error:
        raise _damaged(path, error) from error


def weights_of_shards(path: str | Path) -> dict[str, torch.Tensor]:
    """Read all weights in full, by their names in the module.

    Raises:
        UserError: If the checkpoint is damaged.
    """
    prefix = "state_dict."
    try:
        tensors = _description(path).state_dict_metadata
        weights = {
            name.removeprefix(prefix): torch.empty(tensor.size, dtype=tensor.properties.dtype)
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }
    except _UNREADABLE as error:
        raise _damaged(path, error) from error
    read_shards({"state_dict": weights}, path, alone=True)
    return weights


def _description(path: str | Path) -> Any:
    return _Unpickler(BytesIO((Path(path) / DESCRIPTION_FILE).read_bytes())).load()


def _damaged(path: str | Path, error: BaseException | str) -> UserError:
    reason = reason_of(error) if isinstance(error, BaseException) else error
    return UserError(f"checkpoint: {str(path)!r} cannot be read, it may be damaged ({reason})")
