"""What HumanEval and MBPP share: answers are code, which is judged in a sandbox."""

import ast
import warnings
from collections.abc import Iterable
from math import ceil
from typing import Any, get_args

from dmaxlit.errors import UserError, check_choice
from dmaxlit.sandbox import SandboxSettings
from dmaxlit.sandbox.isolation import level_of, unenforced
from dmaxlit.sandbox.settings import Level
from dmaxlit.tasks.benchmark import BenchmarkTask

_SECONDS, _SECONDS_PLUS, _DAY = 15.0, 60.0, 86400.0
_WALL_PER_CPU = 3


class CodeTask(BenchmarkTask):
    """Functions to write, from the hub or from a file of the same schema; all for test.

    The code of an answer is that of its last fenced block, or else the whole answer; see
    :func:`~dmaxlit.tasks.grading.code.extract_code`. It is right if it passes all tests in a sandbox.

    Args:
        path: File (``.jsonl``, ``.json`` or ``.parquet``) instead of the hub's.
        template: How a row is asked: the name of a template that comes with the task, the path of a ``.yaml`` file, or
            a folder of such files.
        shots: Number of the template's worked examples in a prompt; all of them by default.
        plus: Use the tests of EvalPlus instead, many more: its data on the hub, or a file with ``base_input`` and
            ``plus_input``, in which the reference solution says what is right.
        sandbox: How answers are separated when they run: ``auto``, ``bubblewrap``, ``namespaces`` or ``rlimits``; see
            :class:`~dmaxlit.sandbox.SandboxSettings`.
        seconds: CPU time for one answer, and as much for its tests; 15 by default, with ``plus`` 60. Three times
            as much may pass, so that a busy machine changes no verdict.
        max_new_tokens: Budget of tokens for one answer, EOS included.

    Raises:
        UserError: If there is no such template, it has fewer worked examples, or this machine has no such sandbox. Data
            are read when examples are requested.
    """

    runs_answers = True

    #: Hub id of the data with the tests of EvalPlus.
    plus_hub_id: str

    def __init__(
        self,
        path: str | None = None,
        template: str = "dmax",
        shots: int | None = None,
        plus: bool = False,
        sandbox: Level = "auto",
        seconds: float | None = None,
        max_new_tokens: int = 2048,
    ) -> None:
        check_choice("sandbox", sandbox, get_args(Level))
        if seconds is not None and not 0 < seconds <= _DAY:
            raise UserError(f"seconds: expected a number above 0 and up to {_DAY:g}, got {seconds}")
        cpu = (_SECONDS_PLUS if plus else _SECONDS) if seconds is None else seconds
        self.settings = SandboxSettings(level=sandbox, wall_seconds=_WALL_PER_CPU * cpu, cpu_seconds=ceil(cpu))
        self.plus, self.sandbox, self.seconds = plus, sandbox, seconds
        super().__init__(path, None, template, shots, max_new_tokens=max_new_tokens)
        if plus:
            self.hub_id = self.plus_hub_id

    def check_requirements(self) -> None:
        """Refuse to go on without a sandbox, before anything is generated.

        Raises:
            UserError: If this machine does not have it; the message says what to install or which option accepts less.
        """
        require_sandbox(self.settings, self.name())

    @property
    def sandbox_level(self) -> Level:
        """How answers are separated on this machine, for the record of a run."""
        return level_of(self.settings)

    def record(self) -> dict[str, Any]:
        """Return what a benchmark says, and how answers are separated; see :meth:`Task.record`."""
        return {**super().record(), **sandbox_record(self.settings, self.name())}


def require_sandbox(settings: SandboxSettings, task_name: str) -> Level:
    """Return how answers are separated on this machine; refuse one without the sandbox that a task needs.

    Raises:
        UserError: With what to install, or which option accepts less.
    """
    try:
        return level_of(settings)
    except UserError as error:
        if settings.level == "rlimits":
            raise
        hint = f"--task.sandbox rlimits, of evaluate --task.{task_name}.sandbox rlimits"
        raise UserError(f"{error} ({hint})") from error


def sandbox_record(settings: SandboxSettings, task_name: str) -> dict[str, Any]:
    """Return how answers are separated on this machine, for the record of an evaluation.

    Raises:
        UserError: As :func:`require_sandbox`.
    """
    level = require_sandbox(settings, task_name)
    return {"sandbox": level, **({"sandbox_does_not_enforce": unenforced()} if level == "rlimits" else {})}


def definitions(code: str) -> list[str]:
    """Return the names of the functions and classes that a module defines.

    Raises:
        ValueError: If it is not Python.
    """
    return [node.name for node in _parse(code).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]


def imports(code: str) -> str:
    """Return the imports of a module.

    Raises:
        ValueError: If it is not Python.
    """
    return "\n".join(ast.unparse(node) for node in _parse(code).body if isinstance(node, ast.Import | ast.ImportFrom))


def used_in(tests: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return those of the names that tests use.

    Raises:
        ValueError: If the tests are not Python, or use none.
    """
    loaded = {node.id for node in ast.walk(_parse(tests)) if isinstance(node, ast.Name)}
    used = tuple(name for name in names if name in loaded)
    if not used:
        raise ValueError(f"expected tests that call {' or '.join(names) or 'a function'}, got {tests[:80]!r}")
    return used


def fenced(code: str) -> str:
    """Return code as an answer gives it."""
    return f"```python\n{code.strip()}\n```"


def _parse(code: str) -> ast.Module:
    try:
        with warnings.catch_warnings(action="ignore"):  # of escapes in texts, which are the data's
            return ast.parse(code)
    except SyntaxError as error:
        raise ValueError(f"expected Python, got {error}") from error


def unix_lines(text: Any) -> Any:
    """Return a text with line ends of Unix; anything else as it is."""
    return text.replace("\r\n", "\n") if isinstance(text, str) else text
