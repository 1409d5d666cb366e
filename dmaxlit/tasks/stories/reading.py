"""The task: short stories with a question about everybody, from which a base model learns to read."""

import random
import re
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from dmaxlit.randomness import stable_seed
from dmaxlit.tasks.base import TASKS, Example, Split, Task, check_split, split_of
from dmaxlit.tasks.stories.plot import Plot, Scale, draw_plot, solve
from dmaxlit.tasks.stories.task import SCALES, StoriesTask
from dmaxlit.tasks.stories.wording import ask, narrate, reason
from dmaxlit.tasks.stories.words import NAMES, PLACES, THINGS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["StoriesReadingTask"]

_WITHOUT_EVENTS = 0.4  # share of the stories; so many people are in them that guessing is seldom right
_MAX_NEW_TOKENS = 256  # the longest of 20,000 answers has 218


@TASKS.register("stories_reading")
class StoriesReadingTask(Task):
    """Stories of ``stories`` with at most four events, and a question about everybody.

    The response asks how much each of the people has and answers, one after the other. So there are several numbers to
    look up in each text, not one, and a base model finds out sooner that it has to: on single questions it guesses for
    a long time. It is for pretraining; no story of it is one of another difficulty of ``stories``, which have more
    events.

    Args:
        seed: Seed of the stories and wordings. The split of a story depends neither on it nor on wording.
    """

    self_contained = True

    def __init__(self, seed: int = 0) -> None:
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
        rng = random.Random(stable_seed("stories_reading", split, self.seed))
        seen: set[str] = set()
        examples: list[Example] = []
        while len(examples) < n:
            plot = draw_plot(rng, _draw_scale(rng), NAMES, THINGS)
            if plot.key in seen or split_of(plot.key) != split:
                continue
            seen.add(plot.key)
            examples.append(_example(plot, stable_seed(split, self.seed, len(examples))))
        return examples

    @classmethod
    def tokenizer(cls) -> "PreTrainedTokenizerFast":
        """Return the tokenizer of ``stories``."""
        return StoriesTask.tokenizer()


def _draw_scale(rng: random.Random) -> Scale:
    if rng.random() < _WITHOUT_EVENTS:
        return replace(SCALES["easy"], people=rng.randint(5, 9), events=0, steps=(1, 1))
    return replace(SCALES["easy"], people=rng.randint(2, 3), events=rng.randint(1, 4), steps=(1, 5))


def _example(plot: Plot, wording_seed: int) -> Example:
    rng = random.Random(wording_seed)
    story, turns, answers = narrate(rng, plot, PLACES), [], []
    holdings = [event.holding for event in plot.events if event.kind == "start"]
    for holding in rng.sample(holdings, len(holdings)):
        about = replace(plot, asked=(holding,))
        steps = solve(about)
        turns.append(f"{ask(rng, about)} {reason(rng, steps)}")
        answers.append(str(steps[-1].result))
    return Example(story, answers[-1], partial(_has_answers, answers), " ".join(turns))


def _has_answers(answers: list[str], text: str) -> bool:
    """Return whether the numbers after the ``####`` are the answers, in the order of the reference's questions."""
    return re.findall(r"#### (\d+)", text) == answers
