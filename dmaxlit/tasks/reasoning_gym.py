"""A task from any data set of the reasoning-gym library, judged by the library's scorer."""

import re
from dataclasses import dataclass
from typing import Any

from dmaxlit.errors import UserError, check_at_least
from dmaxlit.randomness import stable_seed
from dmaxlit.tasks.base import TASKS, Example, Split, Task, TooFewExamplesError, check_split, split_of
from dmaxlit.tasks.matching import answer_part
from dmaxlit.tasks.safe_evaluation import has_huge_exponent
from dmaxlit.tasks.scorer_code import evaluators_in, without_evaluation

__all__ = ["ReasoningGymTask"]

# Their scorers evaluate the library's own question and answer, never the model's.
_EVALUATE_QUESTIONS = ("bitwise_arithmetic", "number_sorting")
# What the scorers of these call to evaluate the answer; here it is read as a literal or as arithmetic instead.
_EVALUATE_ANSWERS = {
    "binary_matrix": {"eval"},
    "countdown": {"parse_expr"},
    "n_queens": {"eval"},
    "polynomial_multiplication": {"parse_expr"},
    "puzzle24": {"parse_expr"},
    "spiral_matrix": {"eval"},
    "string_insertion": {"eval"},
}
# Their scorers make each move of an answer as often as the number in it says.
_REPEAT_MOVES = ("rubiks_cube", "rush_hour")
_PATIENCE = 2_000  # items without a new prompt before a data set counts as exhausted


@TASKS.register("reasoning_gym")
class ReasoningGymTask(Task):
    """A procedural data set of reasoning-gym, by name, judged by that library's own scorer.

    Each split has its own seed and keeps only questions whose hash belongs to it, so that none is in two splits. There
    are no worked responses, because some of the library's contain errors. The questions are the library's: those of
    ``isomorphic_strings`` and ``ransom_note`` (0.1.19) also depend on Python's hash
    seed. The scored answer is the text in ``<answer>`` tags, or else after ``####``, or else the whole text.
    No answer is run as code: where the library's scorer evaluates it (``countdown``, ``n_queens`` and five others), it
    is read as a literal or as arithmetic instead, and the two data sets for which that is not enough
    (``simple_integration``, ``intermediate_integration``) are refused. An answer that would take its scorer forever is
    wrong: a number with an exponent of 4 digits or more, unless the reference has one, and in ``rubiks_cube`` and
    ``rush_hour`` a move that is repeated 1000 times.
    Needs ``pip install -e '.[gym]'``.

    Args:
        dataset: Name of the data set, for instance ``gsm_symbolic``.
        config: Options of the data set, without ``seed`` and ``size``.
        seed: Seed of the questions.
        min_score: Score from which an answer counts as right, in (0, 1]; the library scores a flawless one 1.
        max_new_tokens: Budget of tokens for one answer, EOS included.
        size: Number of items each split is drawn from; a tenth of them belong to test. Nearly all data sets generate
            items on demand; lower it for the few that generate all at once (``acre``) or have fewer (``word_ladder``).

    Raises:
        UserError: If the library is missing, does not know the data set, or refuses its options, or if the scorer
            would run a model's answer as code.
    """

    def __init__(
        self,
        dataset: str,
        config: dict[str, Any] | None = None,
        seed: int = 0,
        min_score: float = 1.0,
        max_new_tokens: int = 256,
        size: int = 200_000,
    ) -> None:
        if not 0 < min_score <= 1:
            raise UserError(f"min_score: expected a number in (0, 1], got {min_score}")
        check_at_least(1, max_new_tokens=max_new_tokens, size=size)
        self.dataset, self.config, self.seed, self.min_score = dataset, dict(config or {}), seed, min_score
        self._max_new_tokens, self.size = max_new_tokens, size
        if reserved := {"seed", "size"} & self.config.keys():
            raise UserError(f"config: expected no {' or '.join(sorted(reserved))}, which the task sets itself")
        self._data_set("train")  # refuses a bad name or bad options at once

    @property
    def max_new_tokens(self) -> int:
        """The ``max_new_tokens`` of the constructor."""
        return self._max_new_tokens

    def examples(self, split: Split, n: int) -> list[Example]:
        """Return the first ``n`` examples of a split, without repeats; see :meth:`Task.examples`.

        Raises:
            UserError: If the data set has too few different questions.
        """
        check_split(split)
        source = self._data_set(split)
        seen: set[str] = set()
        examples: list[Example] = []
        item = last_new = 0
        while len(examples) < n:
            if item - last_new > _PATIENCE or item == self.size:
                raise TooFewExamplesError(len(examples), f"{split} prompts of {self.dataset!r} {self.config}", n)
            entry = source[item]
            item += 1
            question = entry["question"]
            if question in seen or split_of(question) != split:
                continue
            last_new = item
            seen.add(question)
            reads, repeats = self.dataset in _EVALUATE_ANSWERS, self.dataset in _REPEAT_MOVES
            scorer = _Scorer(source, entry, self.min_score, reads, repeats)
            answer = entry["answer"]  # None where the scorer needs no reference
            examples.append(Example(question, "" if answer is None else str(answer), scorer))
        return examples

    def _data_set(self, split: Split) -> Any:
        library = _library()
        if self.dataset not in library.factory.DATASETS:
            raise UserError(f"dataset: reasoning-gym has no data set {self.dataset!r}")
        cls = library.factory.DATASETS[self.dataset][0]
        found = evaluators_in(cls.score_answer, cls)
        if found and self.dataset not in _EVALUATE_QUESTIONS and found != _EVALUATE_ANSWERS.get(self.dataset):
            raise UserError(
                f"dataset: expected one whose scorer does not run answers as code, got {self.dataset!r}, whose scorer "
                f"calls {', '.join(sorted(found))}"
            )
        seed = stable_seed("reasoning_gym", self.dataset, split, self.seed) % 2**31
        try:
            return library.create_dataset(self.dataset, seed=seed, size=self.size, **self.config)
        except (AssertionError, TypeError, ValueError) as error:
            raise UserError(f"config: reasoning-gym's {self.dataset!r} refuses {self.config}: {error}") from error


@dataclass(frozen=True)
class _Scorer:
    source: Any
    entry: dict[str, Any]
    min_score: float
    reads: bool  # the answer, in place of evaluating it
    repeats: bool  # moves of the answer

    def __call__(self, text: str) -> bool:
        answer = _library().utils.extract_answer(text)
        answer = answer_part(text).strip() if answer is None else answer
        if self._takes_forever(answer):
            return False
        score_answer = type(self.source).score_answer
        score_answer = without_evaluation(score_answer) if self.reads else score_answer
        try:
            score = score_answer(self.source, answer, self.entry)
        except Exception:  # scorers parse the answer, and a model may write anything
            return False
        return bool(score >= self.min_score)

    def _takes_forever(self, answer: str) -> bool:
        if self.repeats:
            return bool(re.search(r"\d{4}", answer))
        # In a reference such a text is not computed: it is a number to another base, or words.
        return has_huge_exponent(answer) and not has_huge_exponent(str(self.entry["answer"]))


def _library() -> Any:
    try:
        import reasoning_gym
        import reasoning_gym.factory
        import reasoning_gym.utils
    except ImportError as error:
        raise UserError("task 'reasoning_gym' needs the reasoning-gym library: pip install -e '.[gym]'") from error
    return reasoning_gym
