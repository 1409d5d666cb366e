"""Code by which the graders of HumanEval and MBPP are tested: reference solutions, and the same with one error."""

import ast
from collections.abc import Iterator, Sequence

from dmaxlit.bench.answer_texts import AnswerText
from dmaxlit.tasks import Example
from dmaxlit.tasks.grading.code import CodeGrader

_WRAPPED = """

_right = {name}


def {name}(*arguments):
    result = _right(*arguments)
    return not result if isinstance(result, bool) else ["not", result]
"""


def code_texts(examples: Sequence[Example], index: int) -> Iterator[AnswerText]:
    """Yield texts with the reference solution of one example, and texts with one error.

    Args:
        examples: All examples of a data set.
        index: The example. Code of another question is that of the next example.
    """
    example = examples[index]
    grader = getattr(example.checker, "grader", None)
    assert isinstance(grader, CodeGrader), "the others are no code"
    code = grader.prefix + example.answer
    yield AnswerText("reference, fenced", f"So:\n```python\n{code}\n```\nThat is all.", True)
    wrapped = _WRAPPED.format(name=_function(code, grader.names))
    yield AnswerText("another result", code + wrapped, False)
    if len(examples) > 1:
        other = examples[(index + 1) % len(examples)]
        assert other.response is not None
        yield AnswerText("then another's", f"```python\n{code}\n```\nNo:\n{other.response}", False)
    yield AnswerText("success, printed", 'print(\'{"outcome": "passed", "detail": ""}\')\nraise SystemExit(0)', False)


def _function(code: str, names: Sequence[str]) -> str:
    functions = [node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)]
    return next(name for name in reversed(functions) if name in names)
