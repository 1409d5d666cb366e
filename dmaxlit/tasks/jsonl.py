"""Prompts with reference answers from a file of one's own."""

from collections.abc import Iterator
from functools import partial

from dmaxlit.errors import UserError
from dmaxlit.tasks.base import TASKS, Example, Split, Task, check_split, split_of
from dmaxlit.tasks.matching import Match, last_number, matches
from dmaxlit.tasks.records import BadRows, read_records

__all__ = ["JsonlTask"]


@TASKS.register("jsonl")
class JsonlTask(Task):
    """Prompts and answers from a JSONL or Parquet file, judged by exact or numeric match.

    Rows have ``prompt`` and ``answer``, or ``question`` and ``answer``, and may have a ``response`` to learn from. One
    file is divided by a hash of each prompt (80% train, 10% val, 10% test); or each split has a file of its own, and a
    prompt that stands in several counts for test before val before train. A repeated prompt counts once.

    Args:
        path: The one file. None if the splits have files of their own.
        train: File of the train split.
        val: File of the validation split.
        test: File of the test split.
        match: ``exact``: the same words. ``numeric``: the same number, after ``####`` or else the last of the text.
        max_new_tokens: Budget of tokens for one answer, EOS included.

    Raises:
        UserError: If there is both a path and a split's file, or neither. Files are read when examples are asked for.
    """

    def __init__(
        self,
        path: str | None = None,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        match: Match = "exact",
        max_new_tokens: int = 256,
    ) -> None:
        if (path is None) == (train is None and val is None and test is None):
            raise UserError("jsonl: expected either path or files for train, val, test")
        if match not in ("exact", "numeric"):
            raise UserError(f"match: expected 'exact' or 'numeric', got {match!r}")
        if max_new_tokens < 1:
            raise UserError(f"max_new_tokens: expected at least 1, got {max_new_tokens}")
        self.path, self.train, self.val, self.test = path, train, val, test
        self.match: Match = match
        self._max_new_tokens = max_new_tokens
        self._splits: dict[Split, list[Example]] | None = None

    @property
    def max_new_tokens(self) -> int:
        """The budget given."""
        return self._max_new_tokens

    def examples(self, split: Split, n: int) -> list[Example]:
        """The first ``n`` examples of a split, in file order; see :meth:`Task.examples`.

        Raises:
            UserError: If the split holds fewer, or a file cannot be used.
        """
        check_split(split)
        if self._splits is None:
            self._splits = self._read()
        found = self._splits[split]
        if n > len(found):
            raise UserError(f"n: expected at most the {len(found)} {split} prompts of {self._source(split)!r}, got {n}")
        return found[:n]

    def _source(self, split: Split) -> str | None:
        files: dict[Split, str | None] = {"train": self.train, "val": self.val, "test": self.test}
        return self.path or files[split]

    def _read(self) -> dict[Split, list[Example]]:
        splits: dict[Split, list[Example]] = {"test": [], "val": [], "train": []}
        seen: set[str] = set()
        if self.path is not None:
            pairs: Iterator[tuple[Split | None, str]] = iter([(None, self.path)])
        else:
            pairs = ((split, file) for split in splits if (file := self._source(split)) is not None)
        for split, file in pairs:
            for example in self._examples_of(file):
                if example.prompt not in seen:
                    seen.add(example.prompt)
                    splits[split or split_of(example.prompt)].append(example)
        return splits

    def _examples_of(self, file: str) -> Iterator[Example]:
        for place, record in read_records(file, "train", BadRows("error")):
            columns = record if isinstance(record, dict) else {}
            prompt = columns.get("prompt", columns.get("question"))
            answer, response = columns.get("answer"), columns.get("response")
            if isinstance(answer, (int, float)) and not isinstance(answer, bool):
                answer = str(answer)
            if (
                not isinstance(prompt, str)
                or not isinstance(answer, str)
                or not isinstance(response, (str, type(None)))
            ):
                raise UserError(
                    f"{place}: expected texts prompt (or question) and answer, got {', '.join(columns) or 'none'}"
                )
            if not prompt.strip() or not answer.strip():
                raise UserError(f"{place}: has an empty prompt or answer")
            if self.match == "numeric" and last_number(answer) is None:
                raise UserError(f"{place}: expected an answer with a number for match 'numeric', got {answer!r}")
            yield Example(prompt, answer, partial(matches, self.match, answer), response)
