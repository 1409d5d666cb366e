"""The parts of an unfinished file: one for each process, to which it appends what it has finished, in any order."""

import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from dmaxlit.data.resumable_jsonl import PartialCorpus, Progress
from dmaxlit.errors import UserError
from dmaxlit.files import read_json
from dmaxlit.locks import exclusive

_RECORD_SECONDS = 5.0  # between two records of progress, each of which waits for the disk


class Parts:
    """The parts of a file, ``.<name>.rank<r>.jsonl.partial`` next to it; any number of processes has left them.

    Each is a :class:`~dmaxlit.data.resumable_jsonl.PartialCorpus`, whose rows have an ``index``.

    Args:
        output: Path of the finished file.
        settings: Everything the rows depend on, JSON-able.
        overwrite: Discard rows that were written with other settings.
        argument: The user's name for ``output``, for messages.
    """

    def __init__(
        self, output: Path, settings: Mapping[str, Any], overwrite: bool = False, argument: str = "output"
    ) -> None:
        self._output, self._settings = output, settings
        self._overwrite, self._argument = overwrite, argument

    def path(self, rank: int) -> Path:
        """Return the path of a part, without ``.partial``; the process that writes it holds that path."""
        return self._output.with_name(f".{self._output.stem}.rank{rank}{self._output.suffix}")

    def part(self, rank: int) -> PartialCorpus:
        """Open a part, to read it or to write it further.

        Raises:
            UserError: If it was written with other settings, is damaged or cannot be written.
        """
        return PartialCorpus(self.path(rank), self._settings, self._overwrite, self._argument)

    def recorded(self, rank: int) -> Progress:
        """Return what a process has recorded with these settings; nothing if that cannot be read."""
        path = PartialCorpus.record_path(self.path(rank))
        with suppress(UserError):
            record = read_json(path)
            if record.get("settings") == self._settings:
                return Progress.read(record.get("progress"), path)
        return Progress()

    def ranks(self) -> list[int]:
        """Return the processes that have left a part, or the beginning of one."""
        stem, suffix = re.escape(self._output.stem), re.escape(self._output.suffix)
        part = re.compile(rf"\.{{1,2}}{stem}\.rank(\d+){suffix}\..+")
        folder = self._output.parent
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        return sorted({int(match[1]) for match in map(part.fullmatch, names) if match})

    def remove(self, ranks: Iterable[int]) -> None:
        """Remove the parts of some processes, and the locks that killed ones have left.

        Raises:
            UserError: If a process is writing one.
        """
        for rank in ranks:
            with exclusive(self.path(rank), self._argument):
                PartialCorpus(self.path(rank), self._settings, overwrite=True, argument=self._argument).discard()


class PartWriter:
    """Appends rows to a part: after every batch of them, or with one that comes a few seconds after the last record.

    Args:
        part: The part.
        seconds: Returns the time spent on the rows so far, in seconds.
        batch_size: Rows that are recorded at once at the latest; None for time alone.
    """

    def __init__(self, part: PartialCorpus, seconds: Callable[[], float], batch_size: int | None = None) -> None:
        self._part, self._seconds, self._batch_size = part, seconds, batch_size
        self._counts, self._seconds_before = replace(part.progress), part.progress.seconds
        self._rows: list[Mapping[str, Any]] = []
        self._last_record = time.perf_counter()

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row, with ``finished``, ``correct``, ``num_tokens`` and ``num_forwards``; write those that wait."""
        self._rows.append(row)
        is_late = time.perf_counter() - self._last_record >= _RECORD_SECONDS
        if is_late or len(self._rows) == self._batch_size:
            self.record()

    def record(self) -> None:
        """Write the rows that wait, and the progress that counts them.

        Raises:
            UserError: If they cannot be written; what was recorded before is kept.
        """
        if not self._rows:
            return
        counts = replace(
            self._counts,
            prompts=self._counts.prompts + len(self._rows),
            finished=self._counts.finished + sum(row["finished"] for row in self._rows),
            correct=self._counts.correct + sum(row["correct"] for row in self._rows),
            kept=self._counts.kept + len(self._rows),
            tokens=self._counts.tokens + sum(row["num_tokens"] for row in self._rows),
            forwards=self._counts.forwards + sum(row["num_forwards"] for row in self._rows),
            seconds=self._seconds_before + self._seconds(),
        )
        self._part.append(self._rows, counts)
        self._counts, self._rows, self._last_record = counts, [], time.perf_counter()
