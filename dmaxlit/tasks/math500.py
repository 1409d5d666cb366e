"""MATH-500: competition problems, whose answers are LaTeX."""

from collections.abc import Mapping
from typing import Any, ClassVar

from dmaxlit.tasks.base import TASKS, Split
from dmaxlit.tasks.benchmark import BenchmarkTask, Grader, Problem, text_column
from dmaxlit.tasks.grading import LenientMathGrader, MathGrader
from dmaxlit.tasks.grading.math_equivalence import require_math_verify

__all__ = ["Math500Task"]


@TASKS.register("math500")
class Math500Task(BenchmarkTask):
    """MATH-500: 500 problems of ``HuggingFaceH4/MATH-500``, all for test.

    The answer is the last of boxed, ``####`` or "answer is"; it is right if math-verify finds it equivalent to the
    reference. Needs ``pip install -e '.[math]'``.
    """

    hub_id = "HuggingFaceH4/MATH-500"
    hub_splits: ClassVar[Mapping[Split, str]] = {"test": "test"}
    columns = ("problem", "answer")
    fields = ("problem",)

    def check_requirements(self) -> None:
        """Start math-verify; see :meth:`BenchmarkTask.check_requirements`."""
        require_math_verify(self.name())

    def problem(self, row: Mapping[str, Any]) -> Problem:
        """Return problem and reference; see :meth:`BenchmarkTask.problem`."""
        fields = {"problem": text_column(row, "problem").strip()}
        answer = text_column(row, "answer").strip()
        return Problem(fields, answer, self.grader(answer))

    def grader(self, answer: str) -> Grader:
        """Return what judges answers by a reference in LaTeX."""
        return LenientMathGrader(answer) if self.lenient else MathGrader(answer)
