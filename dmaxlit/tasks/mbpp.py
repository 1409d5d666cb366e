"""MBPP: small functions to write from a sentence and a few tests."""

from collections.abc import Mapping
from typing import Any, ClassVar

from dmaxlit.errors import describe_value
from dmaxlit.tasks.base import TASKS, Split
from dmaxlit.tasks.benchmark import Problem, text_column
from dmaxlit.tasks.code_task import CodeTask, definitions, fenced, imports, unix_lines, used_in
from dmaxlit.tasks.grading.code import CodeGrader
from dmaxlit.tasks.plus_tests import plus_inputs, plus_tests

__all__ = ["MbppInstructTask", "MbppTask"]


@TASKS.register("mbpp")
class MbppTask(CodeTask):
    """MBPP: 500 functions of ``google-research-datasets/mbpp``, continued after few worked examples.

    What the tests call are the functions and classes of the reference solution; the answer has to define them by the
    same names. A local file is taken as a whole: of the original one, rows 11 to 510 are the published test split.
    """

    hub_id = "google-research-datasets/mbpp:full"
    plus_hub_id = "evalplus/mbppplus"
    hub_splits: ClassVar[Mapping[Split, str]] = {"test": "test"}
    columns = ("text", "code", "test_list")
    fields = ("text", "tests")

    def problem(self, row: Mapping[str, Any]) -> Problem:
        """Return the task and its tests; see :meth:`BenchmarkTask.problem`."""
        if self.plus and "plus_input" in row:
            return self._plus_problem(row)
        text = text_column(row, "text" if "text" in row else "prompt").strip()
        code = unix_lines(text_column(row, "code"))
        shown = "\n".join(_texts(row, "test_list"))
        setup = unix_lines(row.get("test_setup_code")) or "\n".join(_texts(row, "test_imports"))
        tests = unix_lines(text_column(row, "test")) if self.plus else f"{setup}\n{shown}\n"
        grader = CodeGrader(tests, used_in(tests, definitions(code)), imports(code), settings=self.settings)
        return Problem({"text": text, "tests": shown}, code, grader, fenced(code))

    def _plus_problem(self, row: Mapping[str, Any]) -> Problem:
        """Return a problem of EvalPlus's own file, whose prompt is a docstring with one test."""
        entry_point, solution = text_column(row, "entry_point"), text_column(row, "canonical_solution")
        number = text_column(row, "task_id").rpartition("/")[2]
        if not number.isdigit():
            raise ValueError(f"expected Mbpp/NUMBER in column task_id, got {row['task_id']!r:.80}")
        docstring = text_column(row, "prompt").strip().strip('"').strip()
        text, _, _ = docstring.partition("\nassert ")
        preamble, tests = plus_tests(entry_point, solution, plus_inputs(row, int(number)), float(row.get("atol") or 0))
        grader = CodeGrader(tests, (entry_point,), preamble, settings=self.settings)
        shown = text_column(row, "assertion").strip()
        return Problem({"text": text.strip(), "tests": shown}, solution.strip(), grader, fenced(solution))


@TASKS.register("mbpp_instruct")
class MbppInstructTask(MbppTask):
    """MBPP as an instruction: the same functions and tests, answered with a fenced block of code."""


def _texts(row: Mapping[str, Any], column: str) -> list[str]:
    values = row.get(column, [] if column == "test_imports" else None)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"expected a list of texts in column {column}, got {describe_value(values)}")
    return [unix_lines(value) for value in values]
