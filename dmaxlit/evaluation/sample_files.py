"""The file of samples of one cell, and the journals from which it is made.

Each process appends its rows to a journal of its own (see :mod:`dmaxlit.data.parts`), in the order in which they are
finished. The file appears once all rows are there, sorted, whatever the number of processes and interruptions was.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dmaxlit.data.json_lines import rows_with_offsets, write_rows
from dmaxlit.data.parts import Parts
from dmaxlit.data.resumable_jsonl import PartialCorpus, manifest_path, refusing, whole_manifest
from dmaxlit.files import read_json, write_json
from dmaxlit.version import __version__

#: The task's options in a file's settings, in which ``options`` are the decoder's.
TASK_OPTIONS = "task_options"


@dataclass
class Stored:
    """What journals hold.

    Args:
        rows: Rows by the index of their prompt.
        seconds: Time spent decoding them.
    """

    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, other: "Stored") -> None:
        """Add what other journals hold."""
        self.rows |= other.rows
        self.seconds += other.seconds


class SampleFile:
    """The samples of one cell.

    Args:
        path: The finished file; its name ends in ``.jsonl``.
        identity: Everything the rows depend on, JSON-able.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        self._identity: dict[str, Any] = json.loads(json.dumps(identity))
        self._parts = Parts(path, self._identity)

    def journal(self, rank: int) -> PartialCorpus:
        """Open the journal of a process.

        Raises:
            UserError: If it was written with other settings, or cannot be written.
        """
        return self._parts.part(rank)

    def stored(self) -> Stored:
        """Return what the journals of earlier, interrupted processes hold.

        Raises:
            UserError: If one was written with other settings, or is damaged.
        """
        stored = Stored()
        for rank in self._parts.ranks():
            stored.add(read_journal(self.journal(rank)))
        return stored

    def timing(self) -> dict[str, Any] | None:
        """Return what was measured when the file was made; None if it is not complete.

        Raises:
            UserError: If the file was made with other settings, or by something else.
        """
        manifest = whole_manifest(self.path, self._identity)
        return None if manifest is None else dict(manifest.get("timing") or {})

    def finish(self, rows: Mapping[int, Mapping[str, Any]], timing: Mapping[str, Any]) -> None:
        """Write the file and remove the journals.

        Args:
            rows: All rows, by the index of their prompt.
            timing: What was measured.

        Raises:
            UserError: If it cannot be written.
        """
        manifest = {"settings": self._identity, "timing": dict(timing), "version": __version__}
        with refusing(self.path, "output"):
            write_json(manifest_path(self.path), manifest)
            write_rows(self.path, (rows[index] for index in sorted(rows)))
            self.remove_journals()

    def remove_journals(self, ranks: Iterable[int] | None = None) -> None:
        """Remove the journals of some processes, and the locks that killed ones have left.

        Args:
            ranks: The processes. Default: all.

        Raises:
            UserError: If a process is writing one.
        """
        self._parts.remove(self._parts.ranks() if ranks is None else ranks)

    def read(self) -> list[dict[str, Any]]:
        """Return the rows of the finished file.

        Raises:
            UserError: If it is damaged.
        """
        return read_rows(self.path)


def read_journal(file: PartialCorpus) -> Stored:
    """Return what a journal holds.

    Raises:
        UserError: If it is damaged.
    """
    return Stored({row["index"]: row for row in file.rows()}, file.progress.seconds)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a finished file of samples, in order.

    Raises:
        OSError: If it cannot be read.
        UserError: If it is damaged.
    """
    return [row for _, row in rows_with_offsets(path)]


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings with which a finished file of samples was made.

    Raises:
        UserError: If its manifest cannot be read.
    """
    return dict(read_json(manifest_path(path)).get("settings") or {})
