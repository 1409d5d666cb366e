"""A file that several processes write together, each its own part, and that appears whole and in order."""

import json
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from dmaxlit.data.lock_watch import LockWatch
from dmaxlit.data.parts import Parts
from dmaxlit.data.resumable_jsonl import PartialCorpus, Progress, whole_manifest
from dmaxlit.data.row_filter import RowFilter
from dmaxlit.errors import UserError
from dmaxlit.locks import exclusive, holder
from dmaxlit.ranks import Ranks

_ROWS_AT_ONCE = 1024  # in memory, when parts become the file
_PATIENCE = 5.0  # seconds until a file has to be seen on all nodes


class SharedCorpus:
    """The rows of a file that is complete or absent; a context, which all processes enter together.

    Each process appends to its part what it has finished. Once all rows are there, the main one brings them into the
    order of their prompts. Whatever is killed, and with however many processes it goes on, no row is lost or doubled.

    Args:
        output: Path of the finished file.
        settings: Everything the rows depend on, JSON-able. Resuming requires the same settings.
        ranks: The processes. Default: this one alone.
        overwrite: Replace a finished file, and discard rows that were written with other settings.
        argument: The user's name for ``output``, for messages.

    Attributes:
        whole: The manifest of the file if it was complete already; nothing is left to do.

    Raises:
        UserError: On entering, if the file was made or begun with other settings, cannot be written, is being written
            by another run, or is in a folder that the processes do not share.
    """

    def __init__(
        self,
        output: Path,
        settings: Mapping[str, Any],
        ranks: Ranks | None = None,
        overwrite: bool = False,
        argument: str = "output",
    ) -> None:
        self.output, self.ranks = output, ranks or Ranks()
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self.parts = Parts(output, self.settings, overwrite, argument)
        self.whole: dict[str, Any] | None = None
        self._overwrite, self._argument = overwrite, argument
        self._file: PartialCorpus
        self._lock, self._part_lock = ExitStack(), ExitStack()
        self._watch: LockWatch | None = None

    def __enter__(self) -> "SharedCorpus":
        try:
            self.whole = self.ranks.from_main(self._open)
            if self.whole is None and self.ranks.world_size > 1:
                self._join()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.ranks.watch = self._watch = None
        self._lock.close()

    def _open(self) -> dict[str, Any] | None:
        """Hold the file, on the main rank, unless it is complete; return its manifest if so."""
        if not self._overwrite and (whole := whole_manifest(self.output, self.settings)) is not None:
            return whole
        self._lock.enter_context(exclusive(self.output, self._argument))
        if not self._overwrite and (whole := whole_manifest(self.output, self.settings)) is not None:
            return whole  # another process has finished it meanwhile
        self._file = PartialCorpus(self.output, self.settings, self._overwrite, self._argument)
        return None

    def _join(self) -> None:
        """Hold this process's part, until the end: the others notice when it is free."""
        self._lock.enter_context(self._part_lock)
        writer = self.ranks.from_main(lambda: holder(self.output))
        folder = str(self.output.absolute().parent)

        def hold() -> None:
            end = time.monotonic() + _PATIENCE
            while (seen := holder(self.output)) != writer and time.monotonic() < end:
                time.sleep(0.1)
            if seen != writer:
                raise UserError(
                    f"{self._argument}: expected a folder that all processes share, got {folder!r}, which on "
                    f"{socket.gethostname()} (rank {self.ranks.rank}) is not that of rank 0"
                )
            self._part_lock.enter_context(exclusive(self.parts.path(self.ranks.rank), self._argument))

        self.ranks.together(hold)
        self.ranks.watch = self._watch = LockWatch(self.ranks, self.parts.path)

    def check_ranks(self) -> None:
        """Raise if another process has ended; to be called after every forward.

        Raises:
            LostRankError: If so.
        """
        if self._watch is not None:
            self._watch.check()

    def leave(self) -> None:
        """Let the other processes notice that this one has failed."""
        self._part_lock.close()

    def remaining(self, total: int) -> list[int]:
        """Return the indices of the prompts without an answer, in order.

        Args:
            total: Number of prompts.

        Raises:
            UserError: If a part was written with other settings, or is damaged.
        """
        return self.ranks.from_main(lambda: np.flatnonzero(self._places(total)[0] < 0).tolist())

    def merge(self, total: int, row_filter: RowFilter | None = None) -> Progress:
        """Bring the rows of all parts into the order of their prompts, remove the parts, and return the counts.

        Args:
            total: Number of prompts, all of which have been answered.
            row_filter: Drops rows. Default: all are kept.

        Raises:
            UserError: If rows are missing, or cannot be written.
        """
        counts = self.ranks.from_main(lambda: self._merge(total, row_filter))
        self.ranks.together(lambda: self.parts.remove([self.ranks.rank]))
        self.ranks.from_main(lambda: self.parts.remove(self._abandoned()))
        return counts

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """Give the file its name and write its manifest; on the main rank, after :meth:`merge`."""
        self._file.finish(manifest)

    def discard(self) -> None:
        """Remove the rows; on the main rank, after :meth:`merge`."""
        self._file.discard()

    def _abandoned(self) -> list[int]:
        """Return the processes of earlier runs, of more than there are now, that have left a part."""
        return [rank for rank in self.parts.ranks() if rank >= self.ranks.world_size]

    def _places(self, total: int) -> tuple[Any, Any, list[PartialCorpus]]:
        """Return the number of the part, and the byte, where the row of each prompt is, and the parts.

        The number is that of no part where the row is in the file already, and -1 where there is none.
        """
        parts = [self.parts.part(rank) for rank in self.parts.ranks()]
        part_of, offset_of = np.full(total, -1), np.zeros(total, dtype=np.int64)
        for number, part in enumerate(parts):
            for offset, row in part.rows_with_offsets():
                part_of[row["index"]], offset_of[row["index"]] = number, offset
        part_of[: self._file.progress.prompts] = len(parts)
        return part_of, offset_of, parts

    def _merge(self, total: int, row_filter: RowFilter | None) -> Progress:
        file = self._file
        if file.progress.prompts == total:
            return file.progress
        if row_filter is not None:
            for _, row in file.rows_with_offsets():  # of a merge that was interrupted
                row_filter.add(row)
        part_of, offset_of, parts = self._places(total)
        if (part_of < 0).any():
            raise UserError(
                f"{self._argument}: expected the rows of {total} prompts in {str(self.output.parent)!r}, found none of "
                f"prompt {int(np.argmin(part_of)) + 1}; the same command resumes"
            )
        seconds = file.progress.seconds + sum(part.progress.seconds for part in parts)
        for records in _batches(part_of, offset_of, parts, file.progress.prompts):
            reasons = [] if row_filter is None else [row_filter.reason(record) for record in records]
            for record, reason in zip(records, reasons, strict=False):
                record["row"] = record["row"] if reason is None else None
            counts = _counted(file.progress, records)
            if row_filter is not None:
                counts.dropped = {
                    reason: file.progress.dropped.get(reason, 0) + reasons.count(reason)
                    for reason in row_filter.reasons
                }
            if counts.prompts == total:
                counts.seconds = seconds  # at last, so that those of the parts are added once
            file.append([record["row"] for record in records if record["row"] is not None], counts)
        return file.progress


def _batches(part_of: Any, offset_of: Any, parts: list[PartialCorpus], begin: int) -> Iterator[list[dict[str, Any]]]:
    """Yield what the parts hold of the prompts from an index on, in order, some at a time."""
    with ExitStack() as stack:
        files = {
            number: stack.enter_context(parts[number].rows_path.open("rb"))
            for number in np.unique(part_of[begin:]).tolist()
        }
        for first in range(begin, len(part_of), _ROWS_AT_ONCE):
            records = []
            for index in range(first, min(first + _ROWS_AT_ONCE, len(part_of))):
                file = files[int(part_of[index])]
                file.seek(offset_of[index])
                records.append(json.loads(file.readline()))
            yield records


def _counted(progress: Progress, records: list[dict[str, Any]]) -> Progress:
    """Return counts with those of more records."""
    return Progress(
        prompts=progress.prompts + len(records),
        finished=progress.finished + sum(record["finished"] for record in records),
        correct=progress.correct + sum(record["correct"] for record in records),
        kept=progress.kept + sum(record["row"] is not None for record in records),
        tokens=progress.tokens + sum(record["num_tokens"] for record in records),
        forwards=progress.forwards + sum(record["num_forwards"] for record in records),
        seconds=progress.seconds,
    )
