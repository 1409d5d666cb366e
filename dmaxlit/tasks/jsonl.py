"""A task from the user's own file of prompts with reference answers."""

from collections.abc import Iterator
from functools import partial
from math import isfinite

from dmaxlit.errors import UserError, check_at_least, check_choice
from dmaxlit.tasks.base import TASKS, Example, Split, Task, check_split, split_of
from dmaxlit.tasks.columns import check_columns, other_columns, rename_columns
from dmaxlit.tasks.matching import Match, extracted, is_compound, last_number, matches
from dmaxlit.tasks.records import BadRows, read_records
from dmaxlit.tasks.unicode import lone_surrogate

__all__ = ["JsonlTask"]


@TASKS.register("jsonl")
class JsonlTask(Task):
    """Prompts and answers from a JSONL or Parquet file, judged by exact or numeric match.

    Rows have ``prompt`` and ``answer``, or ``question`` and ``answer``, and may have a ``response`` to learn from. All
    other columns are kept in files of answers (``generate --output``, ``predict``). One file is divided by a hash of
    each prompt (80% train, 10% val, 10% test); or each split has its own file, and a prompt that is in several counts
    for test before val before train. A repeated prompt counts once.

    Args:
        path: The one file. None if each split has its own.
        train: File of the train split.
        val: File of the validation split.
        test: File of the test split.
        match: ``exact``: the same words. ``numeric``: the same number, after ``####`` or else the last one.
        max_new_tokens: Budget of tokens for one answer, EOS included.
        columns: Our name of each column (``prompt``, ``answer``, ``response``) that has another in the file, with that.

    Raises:
        UserError: If there is both a path and a split's file, or neither. Files are read when examples are requested.
    """

    def __init__(
        self,
        path: str | None = None,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        match: Match = "exact",
        max_new_tokens: int = 256,
        columns: dict[str, str] | None = None,
    ) -> None:
        if (path is None) == (train is None and val is None and test is None):
            raise UserError("jsonl: expected either path or files for train, val, test")
        check_choice("match", match, ("exact", "numeric"))
        check_at_least(1, max_new_tokens=max_new_tokens)
        self.path, self.train, self.val, self.test = path, train, val, test
        self.match: Match = match
        self.columns = check_columns(columns, ("prompt", "answer", "response"))
        self._max_new_tokens = max_new_tokens
        self._splits: dict[Split, list[Example]] | None = None

    @property
    def max_new_tokens(self) -> int:
        """The ``max_new_tokens`` of the constructor."""
        return self._max_new_tokens

    def examples(self, split: Split, n: int) -> list[Example]:
        """Return the first ``n`` examples of a split, in file order; see :meth:`Task.examples`.

        Raises:
            UserError: If the split holds fewer, or a file cannot be used.
        """
        examples = self._examples(split)
        if n > len(examples):
            source = self._source(split)
            origin = f"without a file for {split}" if source is None else f"of {source!r}"
            raise UserError(f"n: expected at most the {len(examples)} {split} prompts {origin}, got {n}")
        return examples[:n]

    def count(self, split: Split) -> int:
        """Return the number of examples of a split; see :meth:`Task.count`.

        Raises:
            UserError: If a file cannot be used.
        """
        return len(self._examples(split))

    def _examples(self, split: Split) -> list[Example]:
        check_split(split)
        if self._splits is None:
            self._splits = self._read()
        return self._splits[split]

    def _source(self, split: Split) -> str | None:
        files: dict[Split, str | None] = {"train": self.train, "val": self.val, "test": self.test}
        return self.path or files[split]

    def _read(self) -> dict[Split, list[Example]]:
        splits: dict[Split, list[Example]] = {"test": [], "val": [], "train": []}
        seen: set[str] = set()
        if self.path is not None:
            files: Iterator[tuple[Split | None, str]] = iter([(None, self.path)])
        else:
            files = ((split, file) for split in splits if (file := self._source(split)) is not None)
        for split, file in files:
            for example in self._examples_of(file, split or "path"):
                if example.prompt not in seen:
                    seen.add(example.prompt)
                    splits[split or split_of(example.prompt)].append(example)
        return splits

    def _examples_of(self, file: str, argument: str) -> Iterator[Example]:
        for location, record in read_records(file, "train", BadRows("error"), argument):
            columns = rename_columns(record, self.columns) if isinstance(record, dict) else {}
            name = "question" if columns.get("prompt") is None else "prompt"
            prompt = columns.get(name)
            answer, response = columns.get("answer"), columns.get("response")
            is_number = isinstance(answer, int) or (isinstance(answer, float) and isfinite(answer))
            if is_number and not isinstance(answer, bool):
                answer = str(answer)
            if (
                not isinstance(prompt, str)
                or not isinstance(answer, str)
                or not isinstance(response, (str, type(None)))
            ):
                raise UserError(
                    f"{location}: expected texts prompt (or question) and answer, got {', '.join(columns) or 'none'}"
                )
            if (surrogate := lone_surrogate([prompt, answer, response])) is not None:
                raise UserError(f"{location}: has a lone surrogate ({surrogate})")
            if not prompt.strip() or not answer.strip():
                raise UserError(f"{location}: has an empty prompt or answer")
            if self.match == "numeric" and last_number(answer) is None:
                raise UserError(f"{location}: expected an answer with a number for match 'numeric', got {answer!r}")
            if self.match == "numeric" and is_compound(answer):
                raise UserError(
                    f"{location}: expected an answer that is one number for match 'numeric', which does not compare "
                    f"fractions, ratios, powers and times; got {answer!r}"
                )
            extra = other_columns(record, self.columns, (name, "answer", "response"))
            judge, extract = partial(matches, self.match, answer), partial(extracted, self.match)
            yield Example(prompt, answer, judge, response, extra, extract)
