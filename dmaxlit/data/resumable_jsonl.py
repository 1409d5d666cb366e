"""A JSONL file of responses that is complete or absent, and is resumed after an interruption."""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dmaxlit.data.identity import difference
from dmaxlit.data.json_lines import json_line, rows_with_offsets
from dmaxlit.errors import UserError, describe_value
from dmaxlit.files import (
    open_to_append,
    read_json,
    remove_unfinished,
    require_no_link,
    require_writable,
    sync,
    writable_path,
    write_json,
)


@dataclass
class Progress:
    """Counts of a file so far.

    Args:
        prompts: Prompts answered.
        finished: Of these, responses that ended in EOS.
        correct: Responses that the task's checker accepts; 0 without a checker.
        kept: Rows written.
        tokens: Tokens generated, EOS of each response included.
        forwards: Forwards, summed over responses.
        seconds: Time spent generating.
        offset: Bytes written.
        dropped: Responses that were dropped, by reason.
    """

    prompts: int = 0
    finished: int = 0
    correct: int = 0
    kept: int = 0
    tokens: int = 0
    forwards: int = 0
    seconds: float = 0.0
    offset: int = 0
    dropped: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, counts: Any, path: Path) -> "Progress":
        """Return the counts in a file.

        Args:
            counts: What the file has where the counts should be.
            path: The file, for messages.

        Raises:
            UserError: If they are no counts.
        """
        if not isinstance(counts, dict):
            raise UserError(f"{path}: expected counts, got {describe_value(counts)}")
        dropped = counts.get("dropped", {})
        if not isinstance(dropped, dict):
            raise UserError(f"{path}: expected counts as dropped, got {describe_value(dropped)}")
        for name, value in [*counts.items(), *dropped.items()]:
            if name == "dropped":
                continue
            if name not in cls.__dataclass_fields__ and name not in dropped:
                raise UserError(f"{path}: expected counts, got {name!r} among them")
            kinds = (int, float) if name == "seconds" else int
            if isinstance(value, bool) or not isinstance(value, kinds) or not 0 <= value < math.inf:
                kind = "number" if name == "seconds" else "whole number"
                raise UserError(f"{path}: expected as {name} a {kind} from 0, got {value!r}")
        return cls(**counts)


class PartialCorpus:
    """Rows of an unfinished file: ``<output>.partial`` next to ``<output>.progress.json``.

    Rows reach the disk before the progress that counts them, and progress is replaced in one step. After any
    interruption the file is cut back to the recorded offset and resumed there: no row is lost or duplicated. Before the
    first rows come nothing is written or removed, and a finished file stays until another one takes its name.

    Args:
        output: Path of the finished file.
        settings: Everything the rows depend on, JSON-able. Resuming requires the same settings.
        overwrite: Discard rows that were written with other settings.
        argument: The user's name for ``output``, for messages.

    Raises:
        UserError: If existing rows were written with other settings, or are damaged, or ``output`` cannot be written.
    """

    def __init__(
        self, output: Path, settings: Mapping[str, Any], overwrite: bool = False, argument: str = "output"
    ) -> None:
        self.output = output_path(output, argument)
        self.argument = argument
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self.rows_path = self.output.with_name(self.output.name + ".partial")
        with refusing(self.output, argument):
            require_no_link(self.rows_path)
        self.record = self.record_path(self.output)
        try:
            self.progress, self.has_name = self._restore()
        except UserError:
            if not overwrite:
                raise
            self.progress, self.has_name = Progress(), False
        self._is_begun = False

    @staticmethod
    def record_path(output: Path) -> Path:
        """Return the path of the progress of an unfinished file."""
        return output.with_name(output.name + ".progress.json")

    def _restore(self) -> tuple[Progress, bool]:
        """Return the recorded progress, and whether the file already has its name: only :meth:`finish` is left."""
        if not self.record.exists():
            return Progress(), False
        record = read_json(self.record)
        if (change := difference(_settings(record, self.record), self.settings)) is not None:
            raise UserError(
                f"{self.output}: was begun with other settings: {change}; delete {self.record} or overwrite"
            )
        progress = Progress.read(record.get("progress"), self.record)
        if not self.rows_path.exists() and self.output.is_file() and self.output.stat().st_size == progress.offset:
            return progress, True
        if progress.offset > (self.rows_path.stat().st_size if self.rows_path.exists() else 0):
            raise UserError(f"{self.rows_path}: is shorter than {self.record} says; delete both or overwrite")
        return progress, False

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows written so far.

        Raises:
            UserError: If one is damaged.
        """
        return [row for _, row in self.rows_with_offsets()]

    def rows_with_offsets(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield each row written so far, after the byte at which it begins; one at a time in memory.

        Raises:
            UserError: If one is damaged.
        """
        if self.progress.offset:
            written = self.output if self.has_name else self.rows_path
            yield from rows_with_offsets(written, self.progress.offset, f"; delete it and {self.record}")

    def append(self, rows: Sequence[Mapping[str, Any]], progress: Progress) -> None:
        """Write rows and, once they are on the disk, the progress that counts them.

        Args:
            rows: The rows.
            progress: All counts except the offset, which is set here.

        Raises:
            UserError: If they cannot be written, for instance because the disk is full. What was recorded is kept.
        """
        lines = b"".join(map(json_line, rows))
        with refusing(self.output, self.argument):
            try:
                self._begin()
                with open_to_append(self.rows_path) as file:
                    file.write(lines)
                    file.flush()
                    os.fsync(file.fileno())
                progress.offset = self.progress.offset + len(lines)
                self._write_record(progress)
            except BaseException as error:
                self._is_begun = False  # at Ctrl-C nobody knows how far this has come
                if isinstance(error, OSError):
                    self._take_back()
                raise
        self.progress, self.has_name = progress, False

    def _begin(self) -> None:
        """Cut off what ``progress`` does not count, before the first write and after one that was interrupted."""
        if self._is_begun:
            return
        self.output.parent.mkdir(parents=True, exist_ok=True)
        if self.progress.prompts:
            self._write_record(self.progress)  # first, as it may count what is cut off
        else:
            self.record.unlink(missing_ok=True)
        with open_to_append(self.rows_path) as file:
            file.truncate(self.progress.offset)
        self._is_begun = True

    def _take_back(self) -> None:
        """Leave only what is recorded."""
        with suppress(OSError):
            if self.record.exists():
                with open_to_append(self.rows_path) as file:
                    file.truncate(self.progress.offset)
            else:
                self.rows_path.unlink(missing_ok=True)

    def _write_record(self, progress: Progress) -> None:
        write_json(self.record, {"settings": self.settings, "progress": asdict(progress)})

    def finish(self, manifest: Mapping[str, Any] | None = None) -> None:
        """Give the file its final name, in one step, and write its manifest.

        The progress is removed last: if the process is killed before, the same settings resume here.

        Args:
            manifest: Content of the manifest; None for no manifest.

        Raises:
            UserError: If they cannot be written.
        """
        with refusing(self.output, self.argument):
            if not self.has_name:
                self._begin()
                manifest_path(self.output).unlink(missing_ok=True)  # that of the rows that are replaced
                os.replace(self.rows_path, self.output)
                sync(self.output.parent)
                self.has_name = True
            if manifest is not None:
                write_json(manifest_path(self.output), manifest)
            remove_unfinished(self.output.parent, self.output.name)
            self.record.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove the rows and their progress."""
        self.record.unlink(missing_ok=True)
        self.rows_path.unlink(missing_ok=True)
        remove_unfinished(self.output.parent, self.output.name)


@contextmanager
def refusing(output: Path, argument: str) -> Iterator[None]:
    """Turn an error of the operating system into a refusal that names the file."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{argument}: cannot write {str(output)!r} ({error.strerror or error})") from error


def output_path(output: Path, argument: str) -> Path:
    """Return the path to write so that ``output`` is replaced: a link's target instead of the link.

    Raises:
        UserError: If it cannot be written; nothing is left behind.
    """
    with refusing(output, argument):
        path = writable_path(output, argument)
        require_writable(path)
    return path


def whole_manifest(output: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the manifest of a finished file, or None if the file is not finished.

    Args:
        output: Path of the file.
        settings: Everything the rows depend on, JSON-able.

    Raises:
        UserError: If there is a file that was made with other settings, or by something else.
    """
    path, record = manifest_path(output), PartialCorpus.record_path(output)
    if not output.exists() or (record.exists() and PartialCorpus(output, settings, overwrite=True).has_name):
        return None
    remedy = "choose another name, or overwrite (--overwrite true)"
    if not path.exists():
        raise UserError(f"{output}: exists and has no manifest; {remedy}")
    manifest = read_json(path)
    if (change := difference(_settings(manifest, path), json.loads(json.dumps(settings)))) is not None:
        raise UserError(f"{output}: was made with other settings: {change}; {remedy}")
    return manifest


def _settings(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    settings = content.get("settings")
    if not isinstance(settings, dict):
        raise UserError(f"{path}: expected settings, got {describe_value(settings)}")
    return settings


def manifest_path(output: Path) -> Path:
    """Return the path of a finished file's manifest."""
    return output.with_name(output.name + ".manifest.json")
