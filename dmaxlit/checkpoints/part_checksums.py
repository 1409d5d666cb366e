"""Checksums of the parts of a sharded checkpoint, which ``torch.distributed.checkpoint`` does not store."""

import json
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from dmaxlit.files import write_json

DESCRIPTION_FILE = ".metadata"
_CHECKSUMS_FILE = "checksums.json"
_CHUNK = 2**20
_THREADS = 8


@dataclass(frozen=True)
class _CheckedResult(WriteResult):
    """What a rank has written, with the checksum of the file that it is in."""

    checksum: str = ""


class ChecksumWriter(FileSystemWriter):
    """Writes the parts of a checkpoint, and the checksum of each file: a rank those of its own.

    Args:
        path: Folder of the checkpoint.
        is_copied: Whether the tensors are copies that training does not change, so that an asynchronous save need not
            copy them first.
    """

    def __init__(self, path: Path, is_copied: bool = False) -> None:
        super().__init__(path)
        self._is_copied = is_copied

    def stage(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Return tensors that do not change while they are written."""
        return state_dict if self._is_copied else super().stage(state_dict)

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's files."""
        results = super().write_data(plan, planner).wait()
        sums = _checksums(Path(self.path), {result.storage_data.relative_path for result in results})
        checked: Future[list[WriteResult]] = Future()
        checked.set_result(
            [
                _CheckedResult(
                    result.index, result.size_in_bytes, result.storage_data, sums[result.storage_data.relative_path]
                )
                for result in results
            ]
        )
        return checked

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write the description, and the checksums of all files, on the rank that coordinates."""
        super().finish(metadata, results)
        sums = _checksums(Path(self.path), {DESCRIPTION_FILE})
        for result in (result for of_rank in results for result in of_rank):
            sums[result.storage_data.relative_path] = result.checksum  # type: ignore[attr-defined]
        write_json(Path(self.path) / _CHECKSUMS_FILE, dict(sorted(sums.items())))


def wrong_checksum(folder: Path) -> str | None:
    """Return the name of a file whose checksum is wrong, after reading all of them; None for none.

    A checkpoint of an earlier version has no checksums: nothing is read then.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If the file of checksums is damaged.
    """
    path = folder / _CHECKSUMS_FILE
    if not path.is_file():
        return None
    try:
        stored: Any = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"{_CHECKSUMS_FILE}: {error}") from error
    if not isinstance(stored, dict) or not all(Path(name).name == name for name in stored):
        raise ValueError(f"{_CHECKSUMS_FILE}: expected checksums of files by their names")
    actual = _checksums(folder, stored)
    return next((name for name, checksum in stored.items() if actual[name] != checksum), None)


def _checksums(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the CRC-32 of files by their names."""
    names = list(names)
    with ThreadPoolExecutor(_THREADS) as threads:  # zlib releases the lock of the interpreter
        return dict(zip(names, threads.map(lambda name: _checksum(folder / name), names), strict=True))


def _checksum(path: Path) -> str:
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            checksum = zlib.crc32(chunk, checksum)
    return f"{checksum:08x}"
