"""The folder of a run's checkpoints: the last, the one before it, and whether the run is finished."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmaxlit.checkpoints.sharded import is_sharded_checkpoint
from dmaxlit.files import sync

__all__ = ["RunFolder"]


@dataclass(frozen=True)
class RunFolder:
    """Names of files, and what becomes of them.

    Args:
        path: The folder.
    """

    path: Path

    @property
    def last(self) -> Path:
        """The last checkpoint."""
        return self.path / "last.ckpt"

    @property
    def previous(self) -> Path:
        """The one before it."""
        return self.path / "previous.ckpt"

    @property
    def next(self) -> Path:
        """One that was written, and has yet to become the last."""
        return self.path / ".next.ckpt"

    def candidates(self) -> list[Path]:
        """The checkpoints there are, files or folders of parts, the newest first."""
        found = (self.next, self.last, self.previous)
        return [path for path in found if path.is_file() or is_sharded_checkpoint(path)]

    def discard_next(self) -> None:
        """Clear away a checkpoint that was not gone on from, whole or not: a folder would be written into."""
        _remove(self.next)

    def promote(self, came_from: Path | None) -> None:
        """Make the next checkpoint the last one, and the last one the previous.

        Args:
            came_from: The checkpoint this run wrote last, or goes on from. None: it is new, and what is there is of an
                old run. The previous one: the last one is damaged.
        """
        if came_from is None:
            _remove(self.previous)
            self._finished.unlink(missing_ok=True)
        elif self.last.exists() and came_from != self.previous:
            _move(self.last, self.previous)
        _move(self.next, self.last)
        sync(self.path)

    @property
    def _finished(self) -> Path:
        return self.path / "finished.json"

    def finish(self, told: dict[str, Any]) -> None:
        """Note that a run is finished.

        Args:
            told: At which step, and why there.
        """
        self._finished.write_text(json.dumps(told) + "\n")

    def finished(self) -> dict[str, Any] | None:
        """What was noted, or None."""
        try:
            told = json.loads(self._finished.read_text())
        except (OSError, ValueError):
            return None
        return told if isinstance(told, dict) else None


def _move(source: Path, dest: Path) -> None:
    """Rename a checkpoint. A file takes another's place at once; a folder cannot, but the run's other one is whole."""
    if source.is_dir() or dest.is_dir():
        _remove(dest)
    source.replace(dest)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
