"""The folder of a run's checkpoints: the last, the one before it, the best, and whether the run is finished."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmaxlit.checkpoints.sharded import is_sharded_checkpoint
from dmaxlit.errors import UserError
from dmaxlit.files import remove, sync, write_json


@dataclass(frozen=True)
class RunFolder:
    """The file names in that folder, and the steps by which one checkpoint replaces another.

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
        """The checkpoint before the last."""
        return self.path / "previous.ckpt"

    @property
    def next(self) -> Path:
        """A complete checkpoint that has yet to become the last."""
        return self.path / ".next.ckpt"

    @property
    def best(self) -> Path:
        """The checkpoint with the best value of a metric; not one to resume from by itself."""
        return self.path / "best.ckpt"

    @property
    def next_best(self) -> Path:
        """A complete checkpoint that has yet to become the best."""
        return self.path / ".best.ckpt"

    def candidates(self) -> list[Path]:
        """Return the existing checkpoints, files or sharded, newest first."""
        paths = (self.next, self.last, self.previous)
        return [path for path in paths if path.is_file() or is_sharded_checkpoint(path)]

    def discard_next(self) -> None:
        """Remove checkpoints under temporary names that are not resumed from: a folder would be written into."""
        remove(self.next)
        remove(self.next_best)

    def promote(self, origin: Path | None) -> None:
        """Make the next checkpoint the last one, and the last one the previous.

        Args:
            origin: The checkpoint that this run wrote last, or resumed from. None: the run is new, and existing
                checkpoints belong to an old one. The previous one: the last one is damaged.
        """
        if origin is None:
            remove(self.previous)
            self._finished.unlink(missing_ok=True)
        elif self.last.exists() and origin != self.previous:
            _move(self.last, self.previous)
        _move(self.next, self.last)
        self.forget_begun()
        sync(self.path)

    @property
    def _best_record(self) -> Path:
        return self.path / "best.json"

    def keep_best(self, record: dict[str, Any]) -> None:
        """Make the next best checkpoint the best one.

        Args:
            record: Its metric, mode, value and step.

        Raises:
            OSError: If it cannot be renamed.
            UserError: If the record cannot be written.
        """
        _move(self.next_best, self.best)
        _write_record(self._best_record, record)
        sync(self.path)

    def best_record(self) -> dict[str, Any] | None:
        """Return the record of the best checkpoint; None if there is no such checkpoint."""
        record = _record(self._best_record)
        if record is None or not self.best.exists() or type(record.get("value")) is not float:
            return None
        return record

    def forget_best(self) -> None:
        """Remove the best checkpoint and its record; one without a record is another callback's, and stays."""
        if self._best_record.exists():
            remove(self.best)
            self._best_record.unlink()

    @property
    def _finished(self) -> Path:
        return self.path / "finished.json"

    def finish(self, record: dict[str, Any]) -> None:
        """Record that a run is finished.

        Args:
            record: The step, and the settings that ended the run.

        Raises:
            UserError: If it cannot be written.
        """
        _write_record(self._finished, record)

    def finished(self) -> dict[str, Any] | None:
        """Return the record of :meth:`finish`, or None."""
        return _record(self._finished)

    @property
    def _begun(self) -> Path:
        return self.path / "begun.json"

    def begin(self, settings: dict[str, Any], versions: list[int | None]) -> None:
        """Record the logs of a run that has no checkpoint yet, so that the same run, begun again, goes on with them.

        Args:
            settings: The settings of the run, JSON-able.
            versions: The version of each log; None for a log without a number.

        Raises:
            UserError: If it cannot be written.
        """
        _write_record(self._begun, {"settings": settings, "log_versions": versions})

    def begun_logs(self, settings: dict[str, Any]) -> list[int | None]:
        """Return the versions recorded by :meth:`begin` for a run with these settings; an empty list for none."""
        record = _record(self._begun) or {}
        versions = record.get("log_versions")
        if record.get("settings") != json.loads(json.dumps(settings)) or not isinstance(versions, list):
            return []
        return [version if isinstance(version, int) else None for version in versions]

    def forget_begun(self) -> None:
        """Remove the record of :meth:`begin`."""
        self._begun.unlink(missing_ok=True)


def refuse_links(folder: str | Path) -> None:
    """Refuse a folder of checkpoints with links to what is outside it: a sharded checkpoint would be written there.

    The folder itself may be a link, and checkpoints may be links to each other, as ``save_last: link`` makes one.

    Args:
        folder: The folder; it need not exist.

    Raises:
        UserError: If there is such a link, in place of a checkpoint or of a file in a sharded one.
    """
    inside = Path(folder).resolve()
    for path in (*inside.glob("*.ckpt"), *inside.glob("*.ckpt/*")):
        if path.is_symlink() and not path.resolve().is_relative_to(inside):
            raise UserError(
                f"checkpoint: expected no link to another folder under the name of a checkpoint, got {path}"
            )


def _record(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _write_record(path: Path, record: dict[str, Any]) -> None:
    try:
        write_json(path, record)
    except OSError as error:
        raise UserError(f"checkpoint: cannot write {str(path)!r} ({error.strerror or error})") from error


def _move(source: Path, dest: Path) -> None:
    """Rename a checkpoint; a file replaces another in one step, a folder cannot, but then another one is complete."""
    if source.is_dir() or dest.is_dir():
        remove(dest)
    source.replace(dest)
