"""A corpus file that is either whole or absent, however often its writing is interrupted."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dmaxlit.errors import UserError
from dmaxlit.files import read_json, sync, writable_path, write_json

__all__ = ["PartialCorpus", "Progress", "difference"]


@dataclass
class Progress:
    """How far a corpus has come.

    Args:
        prompts: Prompts answered.
        finished: Of these, answers that ended in EOS.
        correct: Of the finished ones, those the checker accepts; stays 0 without a checker.
        kept: Rows written.
        tokens: Tokens generated, each answer's EOS included.
        forwards: Forwards spent, summed over answers.
        seconds: Time spent generating.
        offset: Bytes written.
    """

    prompts: int = 0
    finished: int = 0
    correct: int = 0
    kept: int = 0
    tokens: int = 0
    forwards: int = 0
    seconds: float = 0.0
    offset: int = 0


class PartialCorpus:
    """Rows on their way into a corpus: ``<corpus>.partial`` beside ``<corpus>.progress.json``.

    Rows reach the disk before the progress that counts them, and progress is replaced in one step. So after any
    interruption the file is cut back to the offset recorded, and goes on from there: no row is lost, none comes twice.

    Args:
        output: Where the whole corpus will stand.
        settings: What it is written with, JSON-able; another run must have the same to go on.
        overwrite: Discard what another run began.

    Raises:
        UserError: If the rows begun were written with other settings, or are damaged, or ``output`` is no file.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any], overwrite: bool = False) -> None:
        output = writable_path(output)
        self.output = output
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self._rows = output.with_name(output.name + ".partial")
        self.record = self.record_path(output)
        output.parent.mkdir(parents=True, exist_ok=True)
        if overwrite:
            self.record.unlink(missing_ok=True)
        self.progress = self._restore()
        with self._rows.open("ab") as rows:
            rows.truncate(self.progress.offset)

    @staticmethod
    def record_path(output: Path) -> Path:
        """Where the progress of a corpus is recorded until it is whole."""
        return output.with_name(output.name + ".progress.json")

    def _restore(self) -> Progress:
        if not self.record.exists():
            return Progress()
        record = read_json(self.record)
        if (other := difference(record.get("settings", {}), self.settings)) is not None:
            raise UserError(f"{self.output}: was begun with other settings: {other}; delete {self.record} or overwrite")
        progress = Progress(**record["progress"])
        if progress.offset > (self._rows.stat().st_size if self._rows.exists() else 0):
            raise UserError(f"{self._rows}: is shorter than {self.record} says; delete both or overwrite")
        return progress

    def rows(self) -> list[dict[str, Any]]:
        """The rows written so far."""
        return [json.loads(line) for line in self._rows.read_bytes().splitlines()]

    def append(self, rows: Sequence[Mapping[str, Any]], progress: Progress) -> None:
        """Write rows and, once they are safe, the progress made with them (its offset is filled in here)."""
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "surrogatepass")
        with self._rows.open("ab") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        progress.offset += len(lines)
        write_json(self.record, {"settings": self.settings, "progress": asdict(progress)})
        self.progress = progress

    def finish(self) -> None:
        """Put the corpus in its place in one step."""
        os.replace(self._rows, self.output)
        sync(self.output.parent)
        self.record.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove what was begun."""
        self.record.unlink(missing_ok=True)
        self._rows.unlink(missing_ok=True)


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """The first setting in which two runs differ, as ``name: old, now new``, or None."""
    for name in [*old, *(name for name in new if name not in old)]:
        if old.get(name) != new.get(name):
            return f"{name} was {old.get(name)!r}, now {new.get(name)!r}"
    return None
