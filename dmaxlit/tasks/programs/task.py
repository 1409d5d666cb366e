"""The task: small Python functions asked for in English."""

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from dmaxlit.errors import check_choice
from dmaxlit.randomness import stable_seed
from dmaxlit.sandbox import SandboxSettings
from dmaxlit.sandbox.settings import Level
from dmaxlit.tasks.base import TASKS, Example, Split, Task, TooFewExamplesError, check_split
from dmaxlit.tasks.code_task import require_sandbox, sandbox_record
from dmaxlit.tasks.grading.code import CodeGrader
from dmaxlit.tasks.programs.code import write
from dmaxlit.tasks.programs.plan import Plan, draw_plan
from dmaxlit.tasks.programs.wording import draw_name, request
from dmaxlit.tasks.word_pieces import load_word_pieces

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["PIECES", "ProgramsTask"]

#: The tokenizer, which ``train_pieces.py`` wrote.
PIECES = Path(__file__).parent / "pieces.json"

_STEPS = {"easy": (1, 2), "standard": (2, 3), "hard": (4, 5)}
_MAX_NEW_TOKENS = {"easy": 128, "standard": 128, "hard": 160}
_PATIENCE = 20_000  # draws in a row that are repeats before there are taken to be no more


@TASKS.register("programs")
class ProgramsTask(Task):
    """Small functions over numbers, lists and texts, asked for in English and answered by code.

    A request names the function, what it takes, some steps on the list that is made of the argument, and the result.
    Wording, and the form of the worked answer (loops, comprehensions, nested expressions, names), are drawn freely. An
    answer is right if hidden tests pass in a sandbox (:mod:`dmaxlit.sandbox`); each step changes the result of one of
    them at least.

    Args:
        difficulty: ``easy``: one or two steps. ``standard``: two or three. ``hard``: four or five.
        seed: Seed of the programs and wordings. The split of a program depends neither on it nor on wording.
        sandbox: How answers are separated when they run: ``auto``, ``bubblewrap``, ``namespaces`` or ``rlimits``; see
            :class:`~dmaxlit.sandbox.SandboxSettings`.
        style: ``free``: forms and names of worked answers are drawn, so that an answer has to keep to those it has
            chosen. ``plain``: loops, comprehensions and nested expressions are drawn, but names and the expression for
            an operation are always the same.

    Raises:
        UserError: If an option is out of range.
    """

    runs_answers = True

    def __init__(
        self,
        difficulty: Literal["easy", "standard", "hard"] = "standard",
        seed: int = 0,
        sandbox: Level = "auto",
        style: Literal["free", "plain"] = "free",
    ) -> None:
        self.difficulty = check_choice("difficulty", difficulty, tuple(_STEPS))
        self.style = check_choice("style", style, ("free", "plain"))
        check_choice("sandbox", sandbox, get_args(Level))
        self.sandbox = sandbox
        self.seed = seed

    @property
    def max_new_tokens(self) -> int:
        """More tokens than any worked answer of the difficulty has, EOS included."""
        return _MAX_NEW_TOKENS[self.difficulty]

    def record(self) -> dict[str, Any]:
        """Return how answers are separated when they run; see :meth:`Task.record`."""
        return sandbox_record(SandboxSettings(level=self.sandbox), "programs")

    def examples(self, split: Split, n: int) -> list[Example]:
        """Return the first ``n`` examples of a split, without repeats; see :meth:`Task.examples`.

        Raises:
            UserError: If the split is unknown or has fewer programs; or if answers are to be judged (``val``, ``test``)
                and this machine has no sandbox.
        """
        check_split(split)
        rng = random.Random(stable_seed("programs", self.difficulty, split, self.seed))
        settings = SandboxSettings(level=self.sandbox)
        if split != "train":
            require_sandbox(settings, "programs")
        seen: set[str] = set()
        examples: list[Example] = []
        repeats = 0
        while len(examples) < n:
            plan = draw_plan(rng, *_STEPS[self.difficulty], split)
            if plan.key in seen:
                repeats += 1
                if repeats > _PATIENCE:
                    raise TooFewExamplesError(len(seen), f"{split} prompts of {self.difficulty} difficulty", n)
                continue
            seen.add(plan.key)
            repeats = 0
            examples.append(_example(plan, stable_seed(split, self.seed, len(examples)), settings, self.style))
        return examples

    @classmethod
    def tokenizer(cls) -> "PreTrainedTokenizerFast":
        """Return the byte-level BPE that was trained on the task's own text."""
        return load_word_pieces(PIECES)


def _example(plan: Plan, wording_seed: int, settings: SandboxSettings, style: str) -> Example:
    rng = random.Random(wording_seed)
    name = draw_name(rng)
    prompt = request(rng, plan, name)
    grader = CodeGrader(_hidden_tests(plan, name), (name,), settings=settings)
    return Example(prompt, plan.key, grader, write(rng, plan, name, style), extract=grader.extract)


def _hidden_tests(plan: Plan, name: str) -> str:
    """Return the statements that a right program passes."""
    return "\n".join(f"assert {name}({argument!r}) == {plan.run(argument)!r}" for argument in plan.arguments())
