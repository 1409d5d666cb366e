"""Decodes prompts into the rows of a file: in the order of the prompts, written while others are decoded."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from tqdm.auto import tqdm

from dmaxlit.data.resumable_jsonl import PartialCorpus, Progress
from dmaxlit.errors import PromptError

_RECORD_SECONDS = 5.0  # between two records of progress, each of which waits for the disk


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


MakeRow = Callable[[int, Any], tuple[Mapping[str, Any] | None, bool]]


def generate_rows(
    file: PartialCorpus,
    prompts: Sequence[Any],
    generate: Callable[[Sequence[Any], int, Callable[[int, Any], object]], object],
    make_row: MakeRow,
    progress_bar: bool = True,
    title: str | None = None,
) -> Progress:
    """Decode the prompts a file does not hold yet; write rows and progress every few seconds.

    Args:
        file: The file to write or to resume.
        prompts: All prompts of the file.
        generate: Called with the prompts that are left, the index of the first of them, and a function that it calls
            with the index of each among those left and its :class:`Response`, in any order.
        make_row: Called with the index of a prompt and its response. Returns the row to write, or None for no row, and
            whether the response is correct.
        progress_bar: Show a progress bar.
        title: Title of the progress bar.

    Returns:
        The counts over the whole file.

    Raises:
        PromptError: For a prompt that cannot be decoded, by its index among all.
        UserError: If the file cannot be written; what was recorded before is kept.
    """
    begin, total = file.progress.prompts, len(prompts)
    if begin < total:
        rows = _OrderedRows(file, make_row)
        with tqdm(total=total, desc=title, unit="prompt", disable=not progress_bar, initial=begin) as bar:

            def take(index: int, response: Any) -> None:
                bar.update()
                rows.take(begin + index, response)

            try:
                generate(prompts[begin:], begin, take)
            except PromptError as error:
                raise PromptError(begin + error.index, error.reason) from error
            finally:  # also what was finished before Ctrl-C
                rows.record()
        assert file.progress.prompts == total
    return file.progress


class _OrderedRows:
    """Writes rows in the order of their prompts; those that are finished before an earlier one wait for it."""

    def __init__(self, file: PartialCorpus, make_row: MakeRow) -> None:
        self._file, self._make_row = file, make_row
        self._counts = replace(file.progress)
        self._rows: list[Mapping[str, Any]] = []
        self._waiting: dict[int, Response] = {}
        self._last_record = time.perf_counter()

    def take(self, index: int, response: Response) -> None:
        """Take the response to a prompt; write what is complete, if the last time was some seconds ago."""
        self._waiting[index] = response
        while (ready := self._waiting.pop(self._counts.prompts, None)) is not None:
            row, correct = self._make_row(self._counts.prompts, ready)
            if row is not None:
                self._rows.append(row)
            counts = self._counts
            counts.prompts += 1
            counts.kept += row is not None
            counts.finished += ready.finished
            counts.correct += correct
            counts.tokens += ready.num_tokens
            counts.forwards += ready.num_forwards
        if time.perf_counter() - self._last_record >= _RECORD_SECONDS:
            self.record()

    def record(self) -> None:
        """Write the rows that are complete, and the progress that counts them."""
        if self._counts.prompts == self._file.progress.prompts:
            return
        now = time.perf_counter()
        counts = replace(self._counts, seconds=self._file.progress.seconds + now - self._last_record)
        self._file.append(self._rows, counts)
        self._rows, self._last_record = [], now
