"""The built-in task: chains of single-digit operations, answered step by step in a free layout."""

import random
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

from dmaxlit.errors import UserError
from dmaxlit.randomness import stable_seed
from dmaxlit.tasks.base import TASKS, Example, Split, Task, TooFewExamplesError, check_split, split_of
from dmaxlit.tasks.drawing import pick
from dmaxlit.tasks.step_report import StepReport
from dmaxlit.tasks.word_tokenizer import word_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["ChainTask"]

_OPERATIONS = {
    "+1": lambda value: (value + 1) % 10,
    "+3": lambda value: (value + 3) % 10,
    "-2": lambda value: (value - 2) % 10,
    "*3": lambda value: (value * 3) % 10,
}
# Synonyms, most frequent first. In a layout, lower-case letters are the operand a, the operation o and the result c.
_WORDS = {
    "S": ("so", "then", "now"),
    "I": ("is", "gives", "makes"),
    "E": (".", ";", ","),
    "T": ("take", "use", "put"),
    "W": ("with", "from", "by"),
}
_LAYOUTS = [layout.split() for layout in ("S a o I c E", "S c I a o E", "T a W o E c", "T o W a I c")]
_CONCLUSION = (("so", "then"), ("answer", "result", "final"), ("is", "gives"), ("####",))
_DIGITS = tuple("0123456789")
_WEIGHTS = (5, 3, 2)


def _weighted(words: Sequence[str]) -> list[str]:
    return [word for word, weight in zip(words, _WEIGHTS, strict=False) for _ in range(weight)]


_URNS = {slot: _weighted(words) for slot, words in _WORDS.items()}
_CONCLUSION_URNS = [_weighted(words) for words in _CONCLUSION]
_STEP_TOKENS = 6
_DIFFICULTY = {"easy": 6, "standard": 10, "hard": 14}
_MAX_DRAWN = 0.75  # fraction of a split that may be drawn, so that drawing without repeats stays quick
_SPLIT_FRACTION: dict[Split, float] = {"train": 0.8, "val": 0.1, "test": 0.1}


@TASKS.register("chain")
class ChainTask(Task):
    """Chained operations on a digit, modulo 10, each step of the answer in one of four layouts.

    The prompt is ``v0 op1 ... opN ?`` with operations ``+1 +3 -2 *3``. The answer has N steps of six tokens and ends
    in ``#### d``. A step may name its result before or after its operands: neighbouring tokens depend on each other and
    every result on the one before, so deciding positions independently from their marginals gives wrong answers.

    Args:
        difficulty: Length of the chain: ``easy`` 6 operations (40,960 prompts, which a small model can nearly learn by
            heart), ``standard`` 10 (10 million), ``hard`` 14 (2.7 billion).
        operations: Number of operations, 3 to 64, instead of the difficulty's.
        seed: Seed of the prompts and wordings. The split of a prompt does not depend on it.

    Raises:
        UserError: If the difficulty is unknown or the number of operations is out of range.
    """

    self_contained = True

    def __init__(
        self,
        difficulty: Literal["easy", "standard", "hard"] = "standard",
        operations: int | None = None,
        seed: int = 0,
    ) -> None:
        if difficulty not in _DIFFICULTY:
            raise UserError(f"difficulty: expected one of {', '.join(_DIFFICULTY)}, got {difficulty!r}")
        if operations is not None and not 3 <= operations <= 64:
            raise UserError(f"operations: expected 3 to 64, got {operations}")
        self.difficulty, self.operations, self.seed = difficulty, operations, seed

    @property
    def steps(self) -> int:
        """Number of operations in a prompt, and of steps in its answer."""
        return self.operations or _DIFFICULTY[self.difficulty]

    @property
    def max_new_tokens(self) -> int:
        """Number of tokens of an answer with EOS, rounded up to the next multiple of 32."""
        return ((_STEP_TOKENS * self.steps + len(_CONCLUSION) + 2) // 32 + 1) * 32

    def examples(self, split: Split, n: int) -> list[Example]:
        """Return the first ``n`` examples of a split, without repeats; see :meth:`Task.examples`.

        Raises:
            UserError: If the split is unknown or ``n`` is more than three quarters of it.
        """
        check_split(split)
        capacity = int(_MAX_DRAWN * _SPLIT_FRACTION[split] * 10 * 4**self.steps)
        if n > capacity:
            raise TooFewExamplesError(capacity, f"{split} prompts of {self.steps} operations", n)
        rng = random.Random(stable_seed("chain", self.steps, split, self.seed))
        seen: set[str] = set()
        examples: list[Example] = []
        while len(examples) < n:
            start, operations = _draw_prompt(rng, self.steps)
            prompt = " ".join([start, *operations, "?"])
            if prompt in seen or split_of(prompt) != split:
                continue
            seen.add(prompt)
            values = _values(start, operations)
            answer = values[-1]
            response = " ".join(_draw_response(rng, operations, values))
            examples.append(Example(prompt, answer, partial(_final_answer_is, answer), response, extract=_final_answer))
        return examples

    def check_steps(self, prompt: str, text: str) -> StepReport:
        """Check every intermediate step of an answer exactly.

        Step i is tokens 6i to 6i + 5. It is right if they fit one of the four layouts, with the prompt's i-th operation
        and the true values before and after it.

        Raises:
            UserError: If the prompt is not one of this family.
        """
        start, operations, end = prompt.split()[:1], prompt.split()[1:-1], prompt.split()[-1:]
        if not operations or start[0] not in _DIGITS or end != ["?"] or any(o not in _OPERATIONS for o in operations):
            raise UserError(f"prompt: expected 'digit operations ... ?', got {prompt!r}")
        values = _values(start[0], operations)
        words = text.split()
        steps = [words[i * _STEP_TOKENS : (i + 1) * _STEP_TOKENS] for i in range(len(operations))]
        expected = zip(values, operations, values[1:], strict=False)
        right = sum(_is_step(step, *slots) for step, slots in zip(steps, expected, strict=True))
        conclusion = words[len(operations) * _STEP_TOKENS :]
        well_formed = len(conclusion) == 5 and all(
            word in synonyms for word, synonyms in zip(conclusion, _CONCLUSION, strict=False)
        )
        final = _final_answer_is(values[-1], text)
        return StepReport(right, len(operations), final, final and well_formed and right == len(operations))

    @classmethod
    def tokenizer(cls) -> "PreTrainedTokenizerFast":
        """Return a tokenizer with one token a word; see :func:`~dmaxlit.tasks.word_tokenizer.word_tokenizer`."""
        words = [*_DIGITS, *_OPERATIONS, "?"]
        return word_tokenizer([*words, *(word for group in (*_WORDS.values(), *_CONCLUSION) for word in group)])


def _draw_prompt(rng: random.Random, steps: int) -> tuple[str, list[str]]:
    names = tuple(_OPERATIONS)
    return pick(rng, _DIGITS), [pick(rng, names) for _ in range(steps)]


def _values(start: str, operations: Sequence[str]) -> list[str]:
    values = [int(start)]
    for operation in operations:
        values.append(_OPERATIONS[operation](values[-1]))
    return [str(value) for value in values]


def _draw_response(rng: random.Random, operations: Sequence[str], values: Sequence[str]) -> list[str]:
    words: list[str] = []
    for before, operation, after in zip(values, operations, values[1:], strict=False):
        computed = {"a": before, "o": operation, "c": after}
        for slot in pick(rng, _LAYOUTS):
            urn = _URNS.get(slot)
            words.append(computed[slot] if urn is None else pick(rng, urn))
    return [*words, *(pick(rng, urn) for urn in _CONCLUSION_URNS), values[-1]]


def _is_step(words: Sequence[str], before: str, operation: str, after: str) -> bool:
    allowed = {"a": (before,), "o": (operation,), "c": (after,), **_WORDS}
    return len(words) == _STEP_TOKENS and any(
        all(word in allowed[slot] for word, slot in zip(words, layout, strict=True)) for layout in _LAYOUTS
    )


def _final_answer_is(answer: str, text: str) -> bool:
    return _final_answer(text) == answer


def _final_answer(text: str) -> str | None:
    """Return the word after the last ``####``, or None."""
    words = text.split()
    if "####" not in words:
        return None
    return next(iter(words[len(words) - words[::-1].index("####") :]), None)
