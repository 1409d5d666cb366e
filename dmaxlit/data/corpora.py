"""The rows that a model learns from: corpora, or a task's worked responses."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmaxlit.data.chat_turns import ChatTurns
from dmaxlit.data.corpus_reader import Row, read_corpus
from dmaxlit.errors import UserError
from dmaxlit.tasks import TASKS, Task
from dmaxlit.tasks.base import first_examples
from dmaxlit.tasks.records import BadRows, is_hub_id, load_from_hub
from dmaxlit.tasks.sources import files_of, is_collection

if TYPE_CHECKING:
    from datasets import Dataset

#: Rows of a task that are trained on where nobody says how many.
DEFAULT_NUM_TRAIN = 10_000


class Corpora:
    """Pairs and plain texts, in their order.

    Args:
        sources: Corpora; see :func:`~dmaxlit.data.corpus_reader.read_corpus`. If there are none, the rows are the
            task's.
        hub_split: Split of hub data sets.
        columns: Our name of each column that has another in the corpora, with that.
        task: The task.
        num_train: Number of rows taken from the task. Default: 10,000, or all if it has fewer.
        chat: Which turns of conversations are learnt. Default: the last.
    """

    def __init__(
        self,
        sources: Sequence[str],
        hub_split: str,
        columns: Mapping[str, str],
        task: Task | None,
        num_train: int | None,
        chat: ChatTurns | None = None,
    ) -> None:
        self.sources, self.hub_split, self.columns = list(sources), hub_split, dict(columns)
        self._chat = chat or ChatTurns()
        self._task, self._num_train = task, num_train

    @cached_property
    def _tables(self) -> "dict[str, Dataset]":
        ids = [source for source in self.sources if is_hub_id(source, texts=True)]
        return {source: load_from_hub(source, self.hub_split) for source in ids}

    def files(self) -> list[Path]:
        """Return the files that hold the rows, those of the cache of ``datasets`` for hub data sets.

        There are none for a task's rows, nor if a hub data set is in memory only.

        Raises:
            UserError: If a folder or pattern has no files, or a data set cannot be loaded.
        """
        files: list[Path] = []
        for source in self.sources:
            if (table := self._tables.get(source)) is not None:
                if not table.cache_files:
                    return []
                files += [Path(file["filename"]) for file in table.cache_files]
            else:
                files += files_of(source, "corpus", texts=True) if is_collection(source) else [Path(source)]
        return files

    def identity(self) -> dict[str, Any]:
        """Return what the rows depend on beside the content of files, as plain values."""
        sources = [source if source in self._tables else os.path.abspath(source) for source in self.sources]
        return {"sources": sources, "hub_split": self.hub_split, "columns": self.columns, **asdict(self._chat)}

    def rows(self, bad: BadRows) -> Iterator[Row]:
        """Yield the usable rows.

        Args:
            bad: Receives the others.

        Raises:
            UserError: If a corpus cannot be read, for a bad row under the policy ``error``, or for a task without
                worked responses.
        """
        for source in self.sources:
            yield from read_corpus(source, self.hub_split, bad, self.columns, self._tables.get(source), self._chat)
        if not self.sources and self._task is not None:
            name = TASKS.name_of(type(self._task))
            examples = first_examples(self._task, "train", self._num_train, DEFAULT_NUM_TRAIN, "num_train")
            if not examples:
                raise UserError(f"corpus: task {name!r} has no training prompts; give a corpus")
            for number, example in enumerate(examples, start=1):
                if example.response is None:
                    raise UserError(f"corpus: task {name!r} has no worked responses to learn from; give a corpus")
                yield Row(example.prompt, example.response, f"task {name}, example {number}")

    def places(self, numbers: Sequence[int]) -> list[str]:
        """Return the file and row of rows by their number; this reads the corpora again, up to the last of them.

        Args:
            numbers: Numbers of usable rows, from 0.
        """
        wanted = set(numbers)  # windows of one text have the same
        locations: dict[int, str] = {}
        for number, row in enumerate(self.rows(BadRows("skip"))):
            if number in wanted:
                locations[number] = row.location
            if len(locations) == len(wanted):
                break
        return [locations[number] for number in numbers]
