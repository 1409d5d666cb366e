"""GSM8K: word problems of primary school, whose answers are whole numbers."""

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from dmaxlit.tasks.base import TASKS, Split
from dmaxlit.tasks.benchmark import BenchmarkTask, Problem, text_column
from dmaxlit.tasks.grading import LenientNumberGrader, NumberGrader
from dmaxlit.tasks.grading.numbers import number_of

__all__ = ["Gsm8kTask"]

_CALCULATION = re.compile(r"<<[^<>]*>>")  # notes for a calculator, which are no part of the text


@TASKS.register("gsm8k")
class Gsm8kTask(BenchmarkTask):
    """GSM8K: 7,473 training and 1,319 test questions of ``openai/gsm8k``, with worked responses.

    The answer is the last of boxed, ``####`` or "answer is", and has to hold the reference number and no other.
    """

    hub_id = "openai/gsm8k:main"
    hub_splits: ClassVar[Mapping[Split, str]] = {"train": "train", "test": "test"}
    columns = ("question", "answer")
    fields = ("question",)

    def problem(self, row: Mapping[str, Any]) -> Problem:
        """Return the question and the number after ``####``; see :meth:`BenchmarkTask.problem`."""
        question, worked = text_column(row, "question"), text_column(row, "answer")
        _, mark, marked = worked.rpartition("####")
        number = number_of(marked) if mark else None
        if number is None:
            raise ValueError(f"expected '#### NUMBER' at the end of column answer, got {worked[-40:]!r}")
        response = _CALCULATION.sub("", worked)
        grader = LenientNumberGrader(response) if self.lenient else NumberGrader((number,))
        return Problem({"question": question.strip()}, marked.strip(), grader, response)
