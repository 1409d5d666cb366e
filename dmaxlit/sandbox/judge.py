"""Judge code by tests that run in another process than the code."""

import ast
import builtins
import json
import os
import subprocess
import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, get_args

from dmaxlit.errors import UserError
from dmaxlit.sandbox.children import ended_at_exit, file_with, read_bounded, scratch_folder, start
from dmaxlit.sandbox.isolation import command_of, level_of
from dmaxlit.sandbox.settings import Level, Outcome, SandboxSettings, Verdict

__all__ = ["run_tests"]

_MOST_OF_VERDICT = 2**16  # bytes


def run_tests(
    code: str,
    tests: str,
    *,
    names: Sequence[str] | None = None,
    preamble: str = "",
    settings: SandboxSettings | None = None,
) -> Verdict:
    """Judge code by tests.

    The code runs in one process and the tests in another one, which alone can write the verdict. Functions and classes
    of the code are called from the tests through a pipe. Plain data crosses it: None, numbers, texts, bytes, lists,
    tuples, sets, dicts, ranges, iterators (as their items), decimals, fractions and dates, each as the builtin type.
    Other objects stay where the code runs; the tests can hold them, read and set their attributes and call them.
    Arguments cross as copies.

    Args:
        code: Code of an answer. Its ``__name__`` is not ``__main__``.
        tests: Statements that raise unless the code is right, for instance ``assert double(2) == 4``.
        names: What the tests use of the code; every one has to be defined by it. None for the names that neither the
            tests nor the preamble nor Python define.
        preamble: Statements that are run in the tests' process before, such as imports. They are trusted.
        settings: Bounds.

    Raises:
        UserError: If there are no tests, or this machine has no such sandbox.
    """
    settings = settings or SandboxSettings()
    level = level_of(settings)
    begin = time.monotonic()
    if names is None:
        names = _undefined_names(tests, preamble)
    if not tests.strip() or not names:
        raise UserError(f"tests: expected statements that use what the code defines, got {tests[:100]!r}")
    job = {"code": code, "tests": tests, "names": list(names), "preamble": preamble}
    answer, stopped_by = _run_pair(job, level, settings, begin + settings.wall_seconds)
    if not answer and stopped_by is None:  # the system may have lacked something for a moment
        begin = time.monotonic()
        answer, stopped_by = _run_pair(job, level, settings, begin + settings.wall_seconds)
    outcome, detail = _read_verdict(answer)
    if stopped_by is not None:
        outcome, detail = "timeout", f"no verdict within {settings.wall_seconds:g} s"
    return Verdict(outcome, detail, time.monotonic() - begin, level)


def _run_pair(
    job: dict[str, Any], level: Level, settings: SandboxSettings, deadline: float
) -> tuple[bytes, str | None]:
    """Return what the process of the tests wrote, and at which bound it was ended, or None."""
    processes: list[subprocess.Popen[bytes]] = []
    with ExitStack() as stack:
        folders = [stack.enter_context(scratch_folder()) for _ in range(2)]
        order = stack.enter_context(file_with(json.dumps(job).encode() + b"\n"))
        stack.enter_context(ended_at_exit(processes))
        requests, replies = os.pipe(), os.pipe()
        try:
            streams: dict[str, Any] = {"stdin": requests[0], "stdout": replies[1], "stderr": subprocess.DEVNULL}
            processes.append(start(command_of("sample", level, settings, {}), folders[0], **streams))
            pipes = [requests[1], replies[0]]
            command = command_of("tests", level, settings, {"pipes": pipes})
            streams = {"stdin": order, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            processes.append(start(command, folders[1], pipes, **streams))
        finally:  # with our copies open, neither would see the other's end
            for descriptor in (*requests, *replies):
                os.close(descriptor)
        verdicts = processes[1].stdout
        assert verdicts is not None
        read, stopped_by = read_bounded({"verdict": verdicts}, deadline, _MOST_OF_VERDICT)
    return read["verdict"], stopped_by


def _read_verdict(answer: bytes) -> tuple[Outcome, str]:
    """Return the last verdict that was written to its end."""
    lines = answer.split(b"\n")[:-1]
    if not lines:
        return "error", "the tests cannot be run: their process ended before them"
    verdict = json.loads(lines[-1])
    outcome = verdict["outcome"]
    assert outcome in get_args(Outcome)
    return outcome, verdict["detail"].encode(errors="backslashreplace").decode()  # a lone surrogate is no text


def _undefined_names(tests: str, preamble: str) -> list[str]:
    """Return the names that tests use and neither they, nor a preamble, nor Python define, in order.

    Raises:
        UserError: If the tests are not Python.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of escapes in texts
            nodes = list(ast.walk(ast.parse(tests)))
            trees = [*nodes, *ast.walk(ast.parse(preamble))]
    except (SyntaxError, ValueError) as error:
        raise UserError(f"tests: expected Python, got {error}") from error
    defined: set[str] = set(dir(builtins))
    for node in trees:
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            defined.add(node.id)
        elif isinstance(node, ast.arg):
            defined.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.alias):
            defined.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            defined.add(node.name)
    used = (node.id for node in nodes if isinstance(node, ast.Name))
    return list(dict.fromkeys(name for name in used if name not in defined))
