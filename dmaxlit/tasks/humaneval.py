"""HumanEval: functions to complete from their signature and docstring."""

from collections.abc import Mapping
from typing import Any, ClassVar

from dmaxlit.tasks.base import TASKS, Split
from dmaxlit.tasks.benchmark import Problem, text_column
from dmaxlit.tasks.code_task import CodeTask, fenced
from dmaxlit.tasks.grading.code import CodeGrader
from dmaxlit.tasks.plus_tests import plus_inputs, plus_tests

__all__ = ["HumanEvalInstructTask", "HumanEvalTask"]


@TASKS.register("humaneval")
class HumanEvalTask(CodeTask):
    """HumanEval: 164 functions of ``openai/openai_humaneval`` whose beginning is continued.

    The code continues the prompt: its indented body, or the whole function again. Helpers that the prompt defines are
    the data's own when the tests call them.
    """

    hub_id = "openai/openai_humaneval"
    plus_hub_id = "evalplus/humanevalplus"
    hub_splits: ClassVar[Mapping[Split, str]] = {"test": "test"}
    columns = ("prompt", "entry_point", "canonical_solution", "test")
    fields = ("prompt", "entry_point")

    def problem(self, row: Mapping[str, Any]) -> Problem:
        """Return the beginning of a function and its tests; see :meth:`BenchmarkTask.problem`."""
        prompt, entry_point = text_column(row, "prompt"), text_column(row, "entry_point")
        solution = text_column(row, "canonical_solution")
        # The hub's rows of HumanEval+ have its inputs in their tests. HumanEval's own tests would be too mild.
        if self.plus and ("plus_input" in row or "assertion(" not in text_column(row, "test")):
            inputs, atol = plus_inputs(row, 0), float(row.get("atol") or 0)
            preamble, tests = plus_tests(entry_point, prompt + solution, inputs, atol)
        else:
            tests = f"{text_column(row, 'test')}\ncheck({entry_point})\n"
            preamble = f"{prompt}    pass\n"
        grader = CodeGrader(tests, (entry_point,), preamble, prompt, self.settings)
        response = self.response(prompt, solution)
        return Problem({"prompt": prompt, "entry_point": entry_point}, solution, grader, response)

    def response(self, prompt: str, solution: str) -> str:
        """Return the reference solution as an answer."""
        return solution


@TASKS.register("humaneval_instruct")
class HumanEvalInstructTask(HumanEvalTask):
    """HumanEval as an instruction: the same functions and tests, answered with a fenced block of code."""

    def response(self, prompt: str, solution: str) -> str:
        """Return the reference solution as an answer, with the beginning of the function."""
        return fenced(prompt + solution)
