"""The base class of tasks: prompts in three disjoint splits, each with a checker for its answers."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from dmaxlit.constructors import constructor_options
from dmaxlit.errors import UserError, renaming_argument
from dmaxlit.factory import make_by_name
from dmaxlit.randomness import stable_seed
from dmaxlit.registry import Registry, class_and_options

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["TASKS", "Example", "Split", "Task", "TooFewExamplesError", "split_of", "task"]

Split = Literal["train", "val", "test"]

_HUNDREDTHS: dict[Split, range] = {"train": range(80), "val": range(80, 90), "test": range(90, 100)}


@dataclass(frozen=True)
class Example:
    """A prompt and how to judge an answer to it.

    Args:
        prompt: Input of the model.
        answer: Reference final answer; empty if the task has only a scorer.
        checker: Decides whether a generated text answers the prompt.
        response: A reference worked response to learn from, if the task has one.
        extra: Whatever else the source says of the prompt, such as an id, by the name of its column. It is kept in the
            rows of files of answers.
        extract: Returns the answer that the checker takes from a text, None for none; for records.
    """

    prompt: str
    answer: str
    checker: Callable[[str], bool] = field(repr=False, compare=False)
    response: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    extract: Callable[[str], str | None] | None = field(default=None, repr=False, compare=False)

    def check(self, text: str) -> bool:
        """Return whether ``text``, a generated answer without special tokens, is right."""
        return self.checker(text)


class TooFewExamplesError(UserError):
    """A split that has fewer examples than are asked for, of a task that finds out by drawing them.

    Args:
        available: How many there are.
        kind: What they are, for the message: ``val prompts of 3 operations``.
        asked: How many are asked for.
    """

    def __init__(self, available: int, kind: str, asked: int) -> None:
        super().__init__(available, kind, asked)
        self.available, self.kind, self.asked = available, kind, asked

    def __str__(self) -> str:
        """Return the message."""
        return f"n: expected at most {self.available} {self.kind}, got {self.asked}"


class Task(ABC):
    """Prompts with a checker, in splits that share no prompt.

    The constructor takes plain values only and stores each under its own name, so that :meth:`options` can rebuild the
    task from a checkpoint or a manifest.
    """

    #: Whether prompts and checkers depend on nothing but code of this class and its options: they open no file, use no
    #: network and run no text as a program, whatever the options are. Only such a task is built because a checkpoint
    #: names it; another one has to be named by the user.
    self_contained: ClassVar[bool] = False
    #: Whether answers are programs, which judging one runs: untrusted code, and a tenth of a second each.
    runs_answers: ClassVar[bool] = False

    def __repr__(self) -> str:
        """Return the class and its options."""
        return class_and_options(self)

    @abstractmethod
    def examples(self, split: Split, n: int) -> list[Example]:
        """Return the first ``n`` examples of a split.

        They are the same for the same split, index and options on every machine.

        Args:
            split: ``train``, ``val`` or ``test``.
            n: Number of examples; a longer list begins with the shorter one.

        Raises:
            UserError: If the split has fewer; a :class:`TooFewExamplesError` where :meth:`count` does not say how many.
        """

    @property
    @abstractmethod
    def max_new_tokens(self) -> int:
        """A generous budget of tokens for one answer, EOS included."""

    @classmethod
    def tokenizer(cls) -> "PreTrainedTokenizerFast | None":
        """Return the task's own small tokenizer, or None if the task is written in natural language."""
        return None

    @property
    def stop(self) -> Sequence[str]:
        """Texts that end an answer as EOS does, for prompts that a model continues instead of answering."""
        return ()

    def count(self, split: Split) -> int | None:
        """Return the number of examples of a split; None for a task that draws as many as one asks for.

        An evaluation answers all that are counted, unless the user says how many.

        Args:
            split: ``train``, ``val`` or ``test``.
        """
        return None

    def record(self) -> dict[str, Any]:
        """Return what a record of an evaluation has to say besides the options, as JSON values.

        For instance the number of worked examples in a prompt (``shots``), or how answers that are programs are
        separated when they run (``sandbox``). It is called before anything is decoded that is to be judged.

        Raises:
            UserError: If answers cannot be judged on this machine.
        """
        return {}

    def options(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON values: ``type(self)(**self.options())`` is the same task.

        Those of the next constructor are among them where this one takes ``**options``.
        """
        return {name: getattr(self, name) for name in constructor_options(type(self))}


def examples_up_to(task: Task, split: Split, most: int) -> list[Example]:
    """Return the first examples of a split, or all if there are fewer.

    Args:
        task: The task.
        split: ``train``, ``val`` or ``test``.
        most: How many.
    """
    available = task.count(split)
    try:
        return task.examples(split, most if available is None else min(most, available))
    except TooFewExamplesError as error:
        return task.examples(split, error.available)


def first_examples(task: Task, split: Split, number: int | None, most: int, argument: str) -> list[Example]:
    """Return the first examples of a split.

    Args:
        task: The task.
        split: ``train``, ``val`` or ``test``.
        number: How many; None for ``most``, or all if there are fewer.
        most: The default.
        argument: The user's name of ``number``, for messages.

    Raises:
        UserError: If there are fewer than ``number``.
    """
    return examples_up_to(task, split, most) if number is None else requested_examples(task, split, number, argument)


def requested_examples(task: Task, split: Split, number: int, argument: str) -> list[Example]:
    """Return as many of the first examples of a split as the user asks for.

    Args:
        task: The task.
        split: ``train``, ``val`` or ``test``.
        number: How many.
        argument: The user's name of ``number``, for messages.

    Raises:
        UserError: If there are fewer.
    """
    with renaming_argument(argument, "n"):
        examples = task.examples(split, number)
        if len(examples) < number:  # of a task of one's own that does not refuse
            raise TooFewExamplesError(len(examples), f"{split} prompts", number)
    return examples


def check_split(split: str) -> None:
    """Refuse the name of a split that does not exist.

    Raises:
        UserError: If ``split`` is none of ``train``, ``val`` and ``test``.
    """
    if split not in _HUNDREDTHS:
        raise UserError(f"split: expected one of {', '.join(_HUNDREDTHS)}, got {split!r}")


TASKS: Registry[Task] = Registry("task", "tasks", Task)


def split_of(prompt: str) -> Split:
    """Return the split of a prompt, by a hash of its text alone: 80% train, 10% val, 10% test.

    The hash depends on no option and no seed, so that a prompt tested under one setting is never trained on under
    another.
    """
    hundredth = stable_seed("split", prompt) % 100
    return next(split for split, hundredths in _HUNDREDTHS.items() if hundredth in hundredths)


def task(name: str, /, **options: Any) -> Task:
    """Return a task by its registered name.

    Args:
        name: For instance ``chain``.
        **options: Options of the task.

    Raises:
        UserError: If there is no such task, it has no such option, or an option is of the wrong type or out of range.
    """
    ready: Task = make_by_name("task", TASKS, Task, name, options)
    return ready
