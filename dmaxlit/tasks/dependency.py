"""Small tasks in which the words of an answer depend on each other more, or less."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from dmaxlit.errors import UserError, check_choice
from dmaxlit.randomness import stable_seed
from dmaxlit.tasks.base import TASKS, Example, Split, Task, TooFewExamplesError, check_split, split_of
from dmaxlit.tasks.drawing import drawn
from dmaxlit.tasks.matching import answer_part
from dmaxlit.tasks.word_tokenizer import word_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["DependencyTask"]

Kind = Literal["copy", "reverse", "replace", "insert", "shuffle", "latin_square", "all"]

_NAMES = (
    *("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ivo", "Jun", "Kai", "Lea"),
    *("Max", "Nia", "Oto", "Pia", "Quin", "Ravi", "Sue", "Tom", "Uma", "Vic", "Wes", "Zoe"),
)
_QUESTIONS = {
    "copy": "Repeat the line.",
    "reverse": "Reverse the line.",
    "replace": "Replace the name at position {position} by {name}.",
    "insert": "Insert {name} so that it stands at position {position}.",
    "shuffle": "Put the line in another order, any you like. Each name has to be there once.",
    "latin_square": "Write a Latin square of these names: as many rows as names, with each name once in each row and "
    "in each column. Put / between the rows.",
}
_WITH_ARGUMENTS = ("replace", "insert")
_ROW_END = "/"
_PATIENCE = 2_000  # draws without a new prompt before there are taken to be no more


@dataclass(frozen=True)
class Line:
    """What a prompt is about.

    Args:
        kind: What is asked for.
        names: The names in the line, all different.
        position: Position of the new name, from 1.
        name: The new name.
    """

    kind: str
    names: tuple[str, ...]
    position: int
    name: str

    def words(self) -> str:
        """Return the prompt in words of the task's tokenizer."""
        arguments = f" {self.position} {self.name}" if self.kind in _WITH_ARGUMENTS else ""
        return f"{self.kind}{arguments} : {' '.join(self.names)} ?"

    def question(self) -> str:
        """Return the prompt in English."""
        asked = _QUESTIONS[self.kind].format(position=self.position, name=self.name)
        line = f"There is a line of names: {' '.join(self.names)}"
        return f"{line}\n{asked}\nReply with the names only, with spaces between them."

    def answer(self, rng: random.Random) -> list[str]:
        """Return a right answer; one of many, drawn at random, for a shuffled line and a Latin square."""
        before, after = list(self.names[: self.position - 1]), list(self.names[self.position - 1 :])
        if self.kind == "shuffle":
            order = list(self.names)
            while tuple(order) == self.names:
                order = drawn(rng, self.names)
            return order
        if self.kind == "latin_square":
            return _latin_square(self.names, rng)
        return {
            "copy": list(self.names),
            "reverse": list(reversed(self.names)),
            "replace": [*before, self.name, *after[1:]],
            "insert": [*before, self.name, *after],
        }[self.kind]

    def is_answer(self, words: Sequence[str]) -> bool:
        """Return whether words answer the prompt."""
        if self.kind == "shuffle":
            return sorted(words) == sorted(self.names) and tuple(words) != self.names
        if self.kind == "latin_square":
            return _is_latin_square(self.names, words)
        return list(words) == self.answer(random.Random(0))


@TASKS.register("dependency")
class DependencyTask(Task):
    """Lines of names to copy, change, shuffle or arrange, in the manner of ParallelBench (arXiv 2510.04767).

    Every word of a copied or reversed line, or of one with a name replaced or inserted at a position, is known from the
    prompt alone: all can be decided at once. In a shuffled line (any other order counts) and in a Latin square each
    word excludes others, and none is known from the prompt: who decides several at once from their marginals is wrong.

    The answer is the text after ``####``, or else the whole text; all its words have to be right.

    Args:
        kind: ``copy``, ``reverse``, ``replace``, ``insert``, ``shuffle`` or ``latin_square``; ``all``: these in turn.
        length: Number of names in a line, 3 to 12. A Latin square has as many rows.
        wording: ``question``: an English sentence. ``words``: a few words, which :meth:`tokenizer` can encode.
        seed: Seed of the prompts. The split of a prompt does not depend on it.

    Raises:
        UserError: If an option is unknown or out of range.
    """

    self_contained = True

    def __init__(
        self,
        kind: Kind = "all",
        length: int = 6,
        wording: Literal["question", "words"] = "question",
        seed: int = 0,
    ) -> None:
        check_choice("kind", kind, (*_QUESTIONS, "all"))
        check_choice("wording", wording, ("question", "words"))
        if not 3 <= length <= 12:
            raise UserError(f"length: expected 3 to 12, got {length}")
        self.kind, self.length, self.wording, self.seed = kind, length, wording, seed

    @property
    def max_new_tokens(self) -> int:
        """Tokens of the longest answer and EOS, in blocks of 32; four times as many for any tokenizer."""
        longest = self.length * (self.length + 1) if self.kind in ("latin_square", "all") else self.length + 2
        words = (longest // 32 + 1) * 32
        return words if self.wording == "words" else 4 * words

    def examples(self, split: Split, n: int) -> list[Example]:
        """Return the first ``n`` examples of a split, without repeats; see :meth:`Task.examples`.

        Raises:
            UserError: If the split is unknown or there are not so many prompts.
        """
        check_split(split)
        rng = random.Random(stable_seed("dependency", self.kind, self.length, split, self.seed))
        kinds = list(_QUESTIONS) if self.kind == "all" else [self.kind]
        seen: set[str] = set()
        examples: list[Example] = []
        misses = 0
        while len(examples) < n:
            line = _draw(kinds[len(examples) % len(kinds)], self.length, rng)
            words, misses = line.words(), misses + 1
            if misses > _PATIENCE:
                raise TooFewExamplesError(len(examples), f"{split} prompts of {self.length} names", n)
            if words in seen or split_of(words) != split:
                continue
            misses = 0
            seen.add(words)
            answer = " ".join(line.answer(rng))
            prompt = words if self.wording == "words" else line.question()
            examples.append(Example(prompt, answer, partial(_answers, line), answer, extract=_answer))
        return examples

    @classmethod
    def tokenizer(cls) -> "PreTrainedTokenizerFast":
        """Return a tokenizer with one token a word; for the wording ``words``."""
        return word_tokenizer([*_NAMES, *_QUESTIONS, *map(str, range(1, 14)), ":", "?", _ROW_END])


def _draw(kind: str, length: int, rng: random.Random) -> Line:
    *names, new = drawn(rng, _NAMES)[: length + 1]
    positions = length + (kind == "insert")  # a name may be inserted at the end
    return Line(kind, tuple(names), 1 + int(rng.random() * positions), new)


def _latin_square(names: Sequence[str], rng: random.Random) -> list[str]:
    """Return a cyclic square with its rows, columns and names in random orders."""
    side = len(names)
    rows, columns, symbols = drawn(rng, range(side)), drawn(rng, range(side)), drawn(rng, names)
    words: list[str] = []
    for row in rows:
        words += [*(symbols[(row + column) % side] for column in columns), _ROW_END]
    return words[:-1]


def _is_latin_square(names: Sequence[str], words: Sequence[str]) -> bool:
    rows = [row.split() for row in " ".join(words).split(_ROW_END)]
    if len(rows) != len(names) or any(len(row) != len(names) for row in rows):
        return False
    return all(sorted(group) == sorted(names) for group in (*rows, *zip(*rows, strict=True)))


def _answer(text: str) -> str | None:
    words = answer_part(text).replace(",", " ").replace(_ROW_END, f" {_ROW_END} ").split()
    return " ".join(words) or None


def _answers(line: Line, text: str) -> bool:
    return line.is_answer((_answer(text) or "").split())
