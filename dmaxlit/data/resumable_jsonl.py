"""A JSONL file of responses that is complete or absent, and is resumed after an interruption."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from tqdm.auto import tqdm

from dmaxlit.errors import UserError
from dmaxlit.files import place_for_file, read_json, sync, weights_hash, write_json

_CHUNK_BATCHES = 4  # batches between two records of progress; within a chunk, prompts take over finished rows


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
    """Rows of an unfinished file: ``<output>.partial`` next to ``<output>.progress.json``.

    Rows reach the disk before the progress that counts them, and progress is replaced in one step. After any
    interruption the file is cut back to the recorded offset and resumed there: no row is lost or duplicated.

    Args:
        output: Path of the finished file.
        settings: Everything the rows depend on, JSON-able. Resuming requires the same settings.
        overwrite: Discard the rows of an interrupted run.

    Raises:
        UserError: If existing rows were written with other settings, or are damaged, or ``output`` is not a file.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any], overwrite: bool = False) -> None:
        output = place_for_file(output)
        self.output = output
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self._rows = output.with_name(output.name + ".partial")
        self.record = self.record_path(output)
        output.parent.mkdir(parents=True, exist_ok=True)
        if overwrite:
            self.record.unlink(missing_ok=True)
        self.progress = self._restore()
        with self._rows.open("ab") as file:
            file.truncate(self.progress.offset)

    @staticmethod
    def record_path(output: Path) -> Path:
        """Return the path of the progress of an unfinished file."""
        return output.with_name(output.name + ".progress.json")

    def _restore(self) -> Progress:
        if not self.record.exists():
            return Progress()
        record = read_json(self.record)
        if (change := difference(record.get("settings", {}), self.settings)) is not None:
            raise UserError(
                f"{self.output}: was begun with other settings: {change}; delete {self.record} or overwrite"
            )
        progress = Progress(**record["progress"])
        if progress.offset > (self._rows.stat().st_size if self._rows.exists() else 0):
            raise UserError(f"{self._rows}: is shorter than {self.record} says; delete both or overwrite")
        return progress

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows written so far."""
        return [json.loads(line) for line in self._rows.read_bytes().splitlines()]

    def append(self, rows: Sequence[Mapping[str, Any]], progress: Progress) -> None:
        """Write rows and, once they are on the disk, the progress that counts them.

        Args:
            rows: The rows.
            progress: All counts except the offset, which is set here.
        """
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "surrogatepass")
        with self._rows.open("ab") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        progress.offset += len(lines)
        write_json(self.record, {"settings": self.settings, "progress": asdict(progress)})
        self.progress = progress

    def finish(self) -> None:
        """Give the file its final name, in one step."""
        os.replace(self._rows, self.output)
        sync(self.output.parent)
        self.record.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove the rows and their progress."""
        self.record.unlink(missing_ok=True)
        self._rows.unlink(missing_ok=True)


class Response(Protocol):
    """What is counted of a response; see :class:`dmaxlit.engine.Generation`."""

    @property
    def text(self) -> str: ...  # noqa: D102

    @property
    def finished(self) -> bool: ...  # noqa: D102

    @property
    def num_tokens(self) -> int: ...  # noqa: D102

    @property
    def num_forwards(self) -> int: ...  # noqa: D102


def generate_rows(
    file: PartialCorpus,
    prompts: Sequence[str],
    batch_size: int,
    generate: Callable[[Sequence[str], int, Callable[[int], object]], Sequence[Any]],
    make_row: Callable[[int, Any], tuple[Mapping[str, Any] | None, bool]],
    progress_bar: bool = True,
    title: str | None = None,
) -> Progress:
    """Decode the prompts a file does not hold yet; write rows and progress after every four batches.

    Args:
        file: The file to write or to resume.
        prompts: All prompts of the file.
        batch_size: Prompts that are decoded together.
        generate: Called with some of the prompts, the index of the first one, and a callback that takes the number of
            responses finished since its last call. Returns a :class:`Response` per prompt.
        make_row: Called with the index of a prompt and its response. Returns the row to write, or None for no row, and
            whether the response is correct.
        progress_bar: Show a progress bar.
        title: Title of the progress bar.

    Returns:
        The counts over the whole file.
    """
    with tqdm(
        total=len(prompts), desc=title, unit="prompt", disable=not progress_bar, initial=file.progress.prompts
    ) as bar:
        while (begin := file.progress.prompts) < len(prompts):
            chunk = prompts[begin : begin + _CHUNK_BATCHES * batch_size]
            started = time.perf_counter()
            responses: Sequence[Response] = generate(chunk, begin, bar.update)
            seconds = time.perf_counter() - started
            assert len(responses) == len(chunk)
            rows, counts = [], replace(file.progress)
            for index, response in enumerate(responses, start=begin):
                row, correct = make_row(index, response)
                if row is not None:
                    rows.append(row)
                counts.finished += response.finished
                counts.correct += correct
                counts.tokens += response.num_tokens
                counts.forwards += response.num_forwards
            counts.prompts += len(chunk)
            counts.kept += len(rows)
            counts.seconds += seconds
            file.append(rows, counts)
    return file.progress


def model_identity(module: Any) -> dict[str, Any]:
    """Return what responses depend on besides settings and prompts: the weights and the block length.

    Args:
        module: A :class:`~dmaxlit.module.DMaxModule`.
    """
    return {"model": weights_hash(module), "block_length": module.backbone.block_length}


def prompts_hash(prompts: Sequence[str]) -> str:
    """Return the SHA-256 of prompts."""
    return hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest()


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """Return the first setting in which two runs differ, as ``name was old, now new``, or None."""
    for name in [*old, *(name for name in new if name not in old)]:
        if old.get(name) != new.get(name):
            return f"{name} was {old.get(name)!r}, now {new.get(name)!r}"
    return None
