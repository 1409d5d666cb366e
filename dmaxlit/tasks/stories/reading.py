"""The task: short stories and what everybody in them has, from which a base model learns to read."""

import random
import re
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from dmaxlit.errors import check_choice
from dmaxlit.randomness import stable_seed
from dmaxlit.tasks.base import TASKS, Example, Split, Task, check_split
from dmaxlit.tasks.drawing import between, drawn
from dmaxlit.tasks.stories.plot import Plot, Scale, draw_plot, draw_split, solve
from dmaxlit.tasks.stories.task import SCALES, StoriesTask
from dmaxlit.tasks.stories.wording import ask, narrate, reason
from dmaxlit.tasks.stories.words import NAMES, PLACES, THINGS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["StoriesReadingTask"]

_WITHOUT_EVENTS = 0.4  # share of the stories that are asked about; with as many people as make guessing useless
_RECALL = replace(SCALES["easy"], events=0, steps=(1, 1), starts=(3, 50))
# Name and number of everybody, in each style.
_SAID = {
    "recall": re.compile(r"(\w+) has (\d+)\."),
    "questions": re.compile(r"How many \w+ (?:does|are with) (\w+) [^?]*\?.*?#### (\d+)", re.DOTALL),
}
_MAX_NEW_TOKENS = 256  # the longest of 10,000 responses has 218


@TASKS.register("stories_reading")
class StoriesReadingTask(Task):
    """Stories of ``stories`` with at most three events, and what everybody in them has.

    For pretraining: a base model that is trained on single questions has one number to look up in each text, and
    guesses for thousands of steps. With many numbers in each text it finds out how to look one up. No story is one of
    ``stories``, which have more events.

    Args:
        style: ``recall``: six to fourteen people, no events, and a response that says of each of them ``Ann has 7.``,
            in any order. ``questions``: a response that asks about everybody in the words of ``stories`` and answers,
            in any order, with the steps of the answers if there are events.
        seed: Seed of the stories and wordings. The split of a story depends neither on it nor on wording.

    Raises:
        UserError: If the style is unknown.
    """

    self_contained = True

    def __init__(self, style: Literal["recall", "questions"] = "recall", seed: int = 0) -> None:
        self.style = check_choice("style", style, ("recall", "questions"))
        self.seed = seed

    @property
    def max_new_tokens(self) -> int:
        """More tokens than any answer has, EOS included."""
        return _MAX_NEW_TOKENS

    def examples(self, split: Split, n: int) -> list[Example]:
        """Return the first ``n`` examples of a split, without repeats; see :meth:`Task.examples`.

        Raises:
            UserError: If the split is unknown.
        """
        check_split(split)
        rng = random.Random(stable_seed("stories_reading", self.style, split, self.seed))
        plots = draw_split(split, n, lambda: draw_plot(rng, self._draw_scale(rng), NAMES, THINGS))
        return [self._example(plot, stable_seed(split, self.seed, index)) for index, plot in enumerate(plots)]

    @classmethod
    def tokenizer(cls) -> "PreTrainedTokenizerFast":
        """Return the tokenizer of ``stories``."""
        return StoriesTask.tokenizer()

    def _draw_scale(self, rng: random.Random) -> Scale:
        if self.style == "recall":
            return replace(_RECALL, people=between(rng, 6, 14))
        if rng.random() < _WITHOUT_EVENTS:
            return replace(SCALES["easy"], people=between(rng, 5, 9), events=0, steps=(1, 1))
        return replace(SCALES["easy"], people=between(rng, 2, 3), events=between(rng, 1, 3), steps=(1, 5))

    def _example(self, plot: Plot, wording_seed: int) -> Example:
        rng = random.Random(wording_seed)
        story, sentences, has = narrate(rng, plot, PLACES), [], []
        holdings = [event.holding for event in plot.events if event.kind == "start"]
        for holding in drawn(rng, holdings):
            about = replace(plot, asked=(holding,))
            steps = solve(about)
            has.append((holding.person, str(steps[-1].result)))
            if self.style == "recall":
                sentences.append(f"{holding.person} has {steps[-1].result}.")
            else:
                sentences.append(f"{ask(rng, about)} {reason(rng, steps)}")
        answer = ", ".join(f"{person} {number}" for person, number in has)
        return Example(story, answer, partial(_says, _SAID[self.style], sorted(has)), " ".join(sentences))


def _says(form: re.Pattern[str], has: list[tuple[str, str]], text: str) -> bool:
    """Return whether a text says of each person once what that person has, in any order, and nothing of others."""
    return sorted(form.findall(text)) == has
