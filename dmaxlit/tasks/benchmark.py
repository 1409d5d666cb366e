"""The base class of published benchmarks: rows of the hub or of a file, asked by a template, graded strictly."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from dmaxlit.errors import UserError, check_at_least, describe_value, reason_of
from dmaxlit.tasks.base import TASKS, Example, Split, Task, check_split, split_of
from dmaxlit.tasks.records import BadRows, read_records
from dmaxlit.tasks.templates import Template, load_template
from dmaxlit.tasks.unicode import lone_surrogate

__all__ = ["BenchmarkTask", "Grader", "Problem", "text_column"]


class Grader(Protocol):
    """Judges a generated text; must be picklable."""

    def extract(self, text: str) -> str | None:
        """Return the answer that the text gives, or None."""

    def __call__(self, text: str) -> bool:
        """Return whether that answer is right."""


@dataclass(frozen=True)
class Problem:
    """One row of a benchmark.

    Args:
        fields: What a template may use.
        answer: The reference answer.
        grader: Judges an answer.
        response: A worked response to learn from, if the data have one.
    """

    fields: Mapping[str, str]
    answer: str
    grader: Grader
    response: str | None = None

    @property
    def question(self) -> str:
        """The fields as one text, by which a problem is known whatever its template is."""
        return " ".join(self.fields.values())


@dataclass(frozen=True)
class _Judge:
    template: Template
    grader: Grader

    def __call__(self, text: str) -> bool:
        return self.grader(self.template.answer_of(text))

    def extract(self, text: str) -> str | None:
        return self.grader.extract(self.template.answer_of(text))


class BenchmarkTask(Task):
    """A published data set, from the hub or from a file of the same schema.

    The test split is the data set's own. Where it has a training split, a tenth of that is for validation, by the hash
    of the question, and what the test split asks too is left out. A repeated question counts once.

    Args:
        path: File of the test split (``.jsonl``, ``.json`` or ``.parquet``) instead of the hub's.
        train: File of the training split instead of the hub's; with ``path`` alone there is none.
        template: How a row is asked: the name of a template that comes with the task, the path of a ``.yaml`` file, or
            a folder of such files.
        shots: Number of the template's worked examples in a prompt; all of them by default.
        lenient: Grade as the published evaluation of DMax does, which accepts any of several candidates; only to
            compare figures with it.
        max_new_tokens: Budget of tokens for one answer, EOS included.

    Raises:
        UserError: If there is no such template, or it has fewer worked examples. Data are read when examples are
            requested.
    """

    #: Hub id, with ``:config`` if there are several, and the hub's name of each split; none of a benchmark of files.
    hub_id: str = ""
    hub_splits: ClassVar[Mapping[Split, str]] = {}
    #: Columns that a row must have, for messages, and the fields of a template.
    columns: ClassVar[tuple[str, ...]]
    fields: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        path: str | None = None,
        train: str | None = None,
        template: str = "dmax",
        shots: int | None = None,
        lenient: bool = False,
        max_new_tokens: int = 2048,
    ) -> None:
        check_at_least(1, max_new_tokens=max_new_tokens)
        self.check_requirements()
        self.path, self.train, self.template, self.shots, self.lenient = path, train, template, shots, lenient
        self._max_new_tokens = max_new_tokens
        self.prompts = load_template(self.name(), template, self.fields)
        available = len(self.prompts.shots)
        if shots is not None and not 0 <= shots <= available:
            raise UserError(f"shots: expected 0 to {available}, the worked examples of {template!r}, got {shots}")
        self._num_shots = available if shots is None else shots
        self._splits: dict[Split, list[Example]] = {}

    @classmethod
    def name(cls) -> str:
        """Return the name under which the task, or the class it is derived from, is registered; or else the class's."""
        return next((name for base in cls.__mro__ if (name := TASKS.name_of(base)) is not None), cls.__name__)

    @property
    def max_new_tokens(self) -> int:
        """The ``max_new_tokens`` of the constructor."""
        return self._max_new_tokens

    @property
    def stop(self) -> tuple[str, ...]:
        """The texts at which the template says that an answer ends."""
        return self.prompts.stop

    def record(self) -> dict[str, Any]:
        """Return how a row is asked and an answer graded; see :meth:`Task.record`."""
        return {
            "template": self.prompts.name,
            "shots": self._num_shots,
            "chat": self.prompts.chat,
            "grading": "lenient" if self.lenient else "strict",
        }

    def check_requirements(self) -> None:
        """Refuse to go on if a library that grading needs is missing.

        Raises:
            UserError: If so; the message says what to install.
        """

    @abstractmethod
    def problem(self, row: Mapping[str, Any]) -> Problem:
        """Return what a row asks, and how answers are judged.

        Args:
            row: The row by columns.

        Raises:
            ValueError: If it is of another schema; the message says which column, and what came.
        """

    def examples(self, split: Split, n: int) -> list[Example]:
        """Return the first ``n`` examples of a split, in the data's order; see :meth:`Task.examples`.

        Raises:
            UserError: If the split holds fewer, or the data cannot be read.
        """
        examples = self._all(split)
        if n > len(examples):
            raise UserError(f"n: expected at most the {len(examples)} {split} prompts of {self.name()}, got {n}")
        return examples[:n]

    def count(self, split: Split) -> int:
        """Return the number of examples of a split.

        Raises:
            UserError: If the data cannot be read.
        """
        return len(self._all(split))

    def _all(self, split: Split) -> list[Example]:
        check_split(split)
        if split not in self._splits:
            self._splits |= self._read_test() if split == "test" else self._read_train()
        return self._splits[split]

    def _read_test(self) -> dict[Split, list[Example]]:
        problems = self._unique(self._rows("test", self.path, "path"), set())
        return {"test": [self._example(problem) for problem in problems]}

    def _read_train(self) -> dict[Split, list[Example]]:
        if self.train is None and (self.path is not None or "train" not in self.hub_splits):
            return {"train": [], "val": []}
        seen = {problem.question for problem in self._unique(self._rows("test", self.path, "path"), set())}
        splits: dict[Split, list[Example]] = {"train": [], "val": []}
        for problem in self._unique(self._rows("train", self.train, "train"), seen):
            splits["val" if split_of(problem.question) == "val" else "train"].append(self._example(problem))
        return splits

    def _unique(self, rows: Iterator[tuple[str, Any]], seen: set[str]) -> Iterator[Problem]:
        for location, row in rows:
            problem = self._problem(location, row)
            if problem.question not in seen:
                seen.add(problem.question)
                yield problem

    def _example(self, problem: Problem) -> Example:
        judge = _Judge(self.prompts, problem.grader)
        prompt = self.prompts.render(problem.fields, self._num_shots)
        return Example(prompt, problem.answer, judge, problem.response, extract=judge.extract)

    def _problem(self, location: str, row: Any) -> Problem:
        if not isinstance(row, Mapping):
            raise UserError(f"{location}: expected columns {', '.join(self.columns)}, got {describe_value(row)}")
        try:
            problem = self.problem(row)
        except ValueError as error:
            raise UserError(f"{location}: {error}") from error
        except (TypeError, IndexError) as error:  # of values that are nested in another way
            raise UserError(f"{location}: has values of another form ({reason_of(error, with_type=True)})") from error
        if (surrogate := lone_surrogate([*problem.fields.values(), problem.answer, problem.response])) is not None:
            raise UserError(f"{location}: has a lone surrogate ({surrogate})")
        return problem

    def _rows(self, split: Split, file: str | None, argument: str) -> Iterator[tuple[str, Any]]:
        if file is not None:
            return self.read_file(file, argument)
        return self._hub_rows(split, argument)

    def read_file(self, file: str, argument: str) -> Iterator[tuple[str, Any]]:
        """Yield the rows of a local file with their locations.

        Args:
            file: Path of a file, a folder or a pattern; see :func:`~dmaxlit.tasks.records.read_records`.
            argument: The user's name for it, for messages.

        Raises:
            UserError: If it cannot be read.
        """
        return read_records(file, "train", BadRows("error"), argument)

    def _hub_rows(self, split: Split, argument: str) -> Iterator[tuple[str, Any]]:
        if not self.hub_id:
            raise UserError(f"{argument}: expected a file, got none")
        try:
            yield from read_records(self.hub_id, self.hub_splits[split], BadRows("error"), argument)
        except UserError as error:
            columns, flag = " and ".join(self.columns), f"task.{argument}"
            raise UserError(
                f"{self.name()}: cannot read {self.hub_id!r} from the hub; a local file with {columns} is taken as "
                f"--{flag} FILE, by fit as --data.{flag}, by evaluate as --task.{self.name()}.{argument} "
                f"({reason_of(error)})"
            ) from error


def text_column(row: Mapping[str, Any], column: str) -> str:
    """Return the text in a column.

    Raises:
        ValueError: If the column is missing, no text, or blank.
    """
    if column not in row:
        raise ValueError(f"expected a column {column}, got {', '.join(map(str, row)) or 'none'}")
    value = row[column]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"expected a text in column {column}, got {value!r:.80}")
    return value
