"""The algebra problems of MATH, as in the Minerva evaluations."""

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from dmaxlit.tasks.base import TASKS, Split
from dmaxlit.tasks.benchmark import Problem, text_column
from dmaxlit.tasks.grading.extraction import boxed_contents
from dmaxlit.tasks.math500 import Math500Task

__all__ = ["MinervaAlgebraTask"]

_UNBRACED = re.compile(r"\\boxed\s*([^\s{}$]+)")  # as in $\boxed 5$, which some solutions have


@TASKS.register("minerva_algebra")
class MinervaAlgebraTask(Math500Task):
    """Minerva-Algebra: 1,744 training and 1,187 test problems of ``EleutherAI/hendrycks_math``, with worked responses.

    The reference is the last boxed answer of the worked solution. Answers are judged as those of ``math500`` are. Needs
    ``pip install -e '.[math]'``.
    """

    hub_id = "EleutherAI/hendrycks_math:algebra"
    hub_splits: ClassVar[Mapping[Split, str]] = {"train": "train", "test": "test"}
    columns = ("problem", "solution")

    def problem(self, row: Mapping[str, Any]) -> Problem:
        """Return problem, boxed answer and solution; see :meth:`BenchmarkTask.problem`."""
        fields = {"problem": text_column(row, "problem").strip()}
        solution = text_column(row, "solution")
        answers = [answer for answer in boxed_contents(solution) if answer] or _UNBRACED.findall(solution)
        if not answers:
            raise ValueError(f"expected \\boxed{{...}} in column solution, got {solution[-40:]!r}")
        return Problem(fields, answers[-1], self.grader(answers[-1]), solution)
