"""The task: word problems in free wording, generated with worked answers."""

import random
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dmaxlit.errors import UserError, check_choice
from dmaxlit.randomness import stable_seed
from dmaxlit.tasks.base import TASKS, Example, Split, Task, check_split
from dmaxlit.tasks.step_report import StepReport
from dmaxlit.tasks.stories.plot import Plot, Scale, Step, draw_plot, draw_split, solve
from dmaxlit.tasks.stories.wording import is_conclusion, is_step, reason, tell
from dmaxlit.tasks.stories.words import NAMES, PLACES, THINGS
from dmaxlit.tasks.word_pieces import load_word_pieces

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["PIECES", "SCALES", "StoriesTask", "Story"]

#: The tokenizer, which ``train_pieces.py`` wrote.
PIECES = Path(__file__).parent / "pieces.json"

_EASY_KINDS = ("gain", "gain", "gain", "lose", "lose", "lose", "give", "give", "give", "double", "halve", "share")
_KINDS = (*_EASY_KINDS, "packs", "packs")
_COMPARISONS = ("start", "start", "more", "fewer", "multiple")
#: The size of the stories of each difficulty.
SCALES = {
    "easy": Scale(2, 1, 4, (4, 5), (3, 20), (2, 9), 50, _EASY_KINDS),
    "standard": Scale(3, 1, 10, (11, 13), (5, 50), (2, 20), 99, _KINDS, _COMPARISONS, 0.25),
    "hard": Scale(4, 2, 10, (9, 14), (10, 300), (2, 99), 999, _KINDS, _COMPARISONS, 0.5),
}
_FEWEST_WORDS = 4  # the most people in a story
# With the task's tokenizer the longest sentence has 17, 20 and 24 tokens.
_MAX_NEW_TOKENS = {"easy": 128, "standard": 288, "hard": 352}


@dataclass(frozen=True)
class Story(Example):
    """A word problem, with the steps of its answer.

    Args:
        steps: The steps, in the order in which the answer has to name them.
    """

    steps: tuple[Step, ...] = ()

    def check_steps(self, text: str) -> StepReport:
        """Check every intermediate step of an answer exactly: sentence i of the answer has to word step i."""
        return _report(self.steps, text)


@TASKS.register("stories")
class StoriesTask(Task):
    """Word problems in free wording: people who find, lose, give, share and compare things.

    The answer tells in sentences, one for each event that matters, how the number changes, and ends in ``#### N``. A
    sentence may name its result before or after its operands, names and things are copied from the story, and every
    result is an operand of a later sentence. Wordings are drawn independently for each sentence.

    Args:
        difficulty: ``easy``: two people, four events, answers of about 60 tokens with the task's tokenizer.
            ``standard``: three people, comparisons, ten events of which up to three do not matter, questions about two
            people together, about 160 tokens. ``hard``: four people with two kinds of things each, ten events, numbers
            of three digits.
        question: Whether the story ends or begins with its question, or ``either`` of them at random.
        words: Number of names, of things and of places to draw from, at least 4; None for all.
        check: What a right answer is: the final ``answer``, or every one of its ``steps``
            (:meth:`Story.check_steps`) and the answer.
        seed: Seed of the stories and wordings. The split of a story depends neither on it nor on wording.

    Raises:
        UserError: If an option is out of range.
    """

    self_contained = True

    def __init__(
        self,
        difficulty: Literal["easy", "standard", "hard"] = "standard",
        question: Literal["last", "first", "either"] = "last",
        words: int | None = None,
        check: Literal["answer", "steps"] = "answer",
        seed: int = 0,
    ) -> None:
        self.difficulty = check_choice("difficulty", difficulty, tuple(SCALES))
        self.question = check_choice("question", question, ("last", "first", "either"))
        self.check = check_choice("check", check, ("answer", "steps"))
        if words is not None and not (isinstance(words, int) and words >= _FEWEST_WORDS):
            raise UserError(f"words: expected at least {_FEWEST_WORDS}, a whole number, got {words}")
        self.words, self.seed = words, seed

    @property
    def max_new_tokens(self) -> int:
        """More tokens than any answer of the difficulty has, EOS included."""
        return _MAX_NEW_TOKENS[self.difficulty]

    def examples(self, split: Split, n: int) -> list[Example]:
        """Return the first ``n`` examples of a split, without repeats; see :meth:`Task.examples`.

        Raises:
            UserError: If the split is unknown.
        """
        check_split(split)
        # The stories are those of every wording option: only the sentences differ.
        rng = random.Random(stable_seed("stories", self.difficulty, split, self.seed))
        plots = draw_split(
            split, n, lambda: draw_plot(rng, SCALES[self.difficulty], NAMES[: self.words], THINGS[: self.words])
        )
        return [self._example(plot, stable_seed(split, self.seed, index)) for index, plot in enumerate(plots)]

    @classmethod
    def tokenizer(cls) -> "PreTrainedTokenizerFast":
        """Return the byte-level BPE that was trained on the task's own text."""
        return load_word_pieces(PIECES)

    def _example(self, plot: Plot, wording_seed: int) -> Story:
        rng = random.Random(wording_seed)
        question_first = rng.random() < {"last": 0.0, "either": 0.5, "first": 1.0}[self.question]
        prompt = tell(rng, plot, PLACES[: self.words], question_first)
        steps = tuple(solve(plot))
        check = _is_exact if self.check == "steps" else _is_final
        return Story(prompt, str(steps[-1].result), partial(check, steps), reason(rng, steps), steps=steps)


def _report(steps: tuple[Step, ...], text: str) -> StepReport:
    sentences = re.split(r"(?<=\.) ", text.strip())
    right = sum(is_step(sentence, step) for sentence, step in zip(sentences, steps, strict=False))
    concluded = len(sentences) == len(steps) + 1 and is_conclusion(sentences[-1], steps[-1].result)
    return StepReport(right, len(steps), _is_final(steps, text), concluded and right == len(steps))


def _is_exact(steps: tuple[Step, ...], text: str) -> bool:
    return _report(steps, text).exact


def _is_final(steps: tuple[Step, ...], text: str) -> bool:
    """Return whether the number after the last ``####`` is the answer."""
    _, mark, rest = text.rpartition("####")
    return bool(mark) and rest.split()[:1] == [str(steps[-1].result)]
