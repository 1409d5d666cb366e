"""Encoded rows in an Arrow file, which is mapped into memory instead of read.

The file is a stream of record batches, one for each part; ``datasets.Dataset.from_file`` opens it too. Its columns are
``ids`` (the tokens of a sequence), ``prompt_length``, and ``row``, the number of the row in the corpus.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dmaxlit.data.dataset import PackedPairs, Part
from dmaxlit.errors import UserError

_SCHEMA = pa.schema([("ids", pa.large_list(pa.int32())), ("prompt_length", pa.int64()), ("row", pa.int64())])


class MappedPairs(PackedPairs):
    """Encoded rows in a file. Processes share the pages that they read, and the system drops pages at need.

    Pickled, it is little more than the path.

    Args:
        path: The file; it stays mapped, also after it is replaced.
        fingerprint: What :meth:`fingerprint` returns. Default: it reads the whole file.
        version: Size and time of the file that is expected, as of another object's ``version``. Default: any.

    Raises:
        UserError: If the file is another one.
        OSError: If it cannot be read.
        ValueError: If it is no such file.
    """

    def __init__(self, path: Path, fingerprint: str | None = None, version: tuple[int, int] | None = None) -> None:
        status = os.stat(path)
        self.path, self.version = path, (status.st_size, status.st_mtime_ns)
        self._fingerprint = fingerprint
        if version is not None and version != self.version:
            raise UserError(f"cache_dir: expected {str(path)!r} to stay as it is during a run, but it was replaced")
        with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as reader:
            if reader.schema != _SCHEMA:
                raise ValueError(f"expected the columns {_SCHEMA.names}, got {reader.schema.names}")
            super().__init__(map(_part, reader))

    def fingerprint(self) -> str:
        """Return the number of rows and a checksum of their tokens; see :class:`PackedPairs`."""
        return super().fingerprint() if self._fingerprint is None else self._fingerprint

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self._fingerprint, self.version)


def write_parts(path: Path, parts: Iterable[Part]) -> None:
    """Write parts to a file, each as it comes.

    Args:
        path: The file.
        parts: The parts.

    Raises:
        OSError: If it cannot be written.
    """
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, _SCHEMA) as writer:
        for part in parts:
            offsets = pa.array(np.concatenate([np.zeros(1, dtype=np.int64), part.ends]))
            ids = pa.LargeListArray.from_arrays(offsets, pa.array(part.ids))
            columns = [ids, pa.array(part.prompt_lengths), pa.array(part.numbers)]
            writer.write_batch(pa.record_batch(columns, schema=_SCHEMA))


def _part(batch: Any) -> Part:
    ids, prompt_lengths, numbers = batch.columns
    return Part(
        ids.values.to_numpy(zero_copy_only=True),
        ids.offsets.to_numpy(zero_copy_only=True)[1:],
        prompt_lengths.to_numpy(zero_copy_only=True),
        numbers.to_numpy(zero_copy_only=True),
    )
