"""Correct programs in freely chosen forms: loops, comprehensions or nested expressions, and names of variables."""

import random
import re
from collections.abc import Sequence
from typing import TypeVar

from dmaxlit.tasks.drawing import pick
from dmaxlit.tasks.programs.operation import Step
from dmaxlit.tasks.programs.plan import Plan

__all__ = ["write"]

_ITEMS = {"number": ("x", "n", "v", "value", "num", "a"), "word": ("w", "word", "x", "s", "t", "name")}
_LISTS = ("result", "out", "kept", "chosen", "found", "new", "parts", "rows", "picked", "left")
_TOTALS = ("total", "acc", "answer", "sum_so_far", "current")
_COUNTERS = ("count", "amount", "how_many", "number_left")
_INDENT = "    "
_T = TypeVar("_T")


def write(rng: random.Random, plan: Plan, name: str, style: str = "free") -> str:
    """Write one of the right programs for a plan, as code without a fence.

    Args:
        rng: Draws the form.
        plan: What the program does.
        name: Name of the function.
        style: Whether everything is drawn (``free``), or only whether there are loops, comprehensions or nested
            expressions (``plain``), and names and the expression for an operation are always the same.
    """
    return _Writer(rng, plan, style).function(name)


class _Writer:
    """Writes one program, and remembers which names are taken."""

    def __init__(self, rng: random.Random, plan: Plan, style: str) -> None:
        self._rng, self._plan, self._is_free = rng, plan, style == "free"
        self._parameter = self._choose(plan.input.parameters)
        self._taken = {self._parameter}
        self._lines: list[str] = []
        self._list = self._parameter
        self._item = self._new(_ITEMS[plan.input.item])

    def function(self, name: str) -> str:
        """Return the whole function."""
        made = _with(self._choose(self._plan.input.code), p=self._parameter)
        if made != self._parameter:
            self._assign(made)
        loops = self._rng.random() < 0.5
        pending: list[Step] = []  # steps on items that the next loop or comprehension does together
        for step in self._plan.steps:
            if step.operation.kind == "whole":
                self._finish(pending, loops)
                pending = []
                self._assign(_with(self._choose(step.operation.code), xs=self._list, k=step.k))
            else:
                pending.append(step)
        self._end(pending, loops)
        return "\n".join([f"def {name}({self._parameter}):", *(_INDENT + line for line in self._lines)])

    def _end(self, pending: list[Step], loops: bool) -> None:
        end = self._plan.end
        name = end.operation.name
        if name == "product" or (loops and pending and name in ("sum", "count")):
            self._accumulate(pending, name)
            return
        code = self._choose(end.operation.code)
        nested = not loops and pending and len(re.findall(r"\bxs\b", code)) == 1 and self._rng.random() < 0.5
        if nested:
            *rest, last = _comprehensions(pending)
            for run in rest:
                self._assign(self._comprehension(*run))
            self._list = self._comprehension(*last)
        else:
            self._finish(pending, loops)
        self._lines.append(f"return {_with(code, xs=self._list, x=self._item, k=end.k)}")

    def _finish(self, pending: list[Step], loops: bool) -> None:
        """Do steps on items: as one loop, or as a comprehension for each run of filters and one map."""
        if not pending:
            return
        if loops:
            out = self._new(_LISTS)
            self._lines.append(f"{out} = []")
            self._loop(pending, f"{out}.append({{item}})")
            self._list = out
            return
        for run in _comprehensions(pending):
            self._assign(self._comprehension(*run))

    def _comprehension(self, filters: list[Step], mapped: Step | None) -> str:
        condition = " and ".join(self._code(step) for step in filters)
        expression = self._item if mapped is None else self._code(mapped)
        return f"[{expression} for {self._item} in {self._list}{f' if {condition}' if filters else ''}]"

    def _accumulate(self, pending: list[Step], name: str) -> None:
        total = self._new(_COUNTERS if name == "count" else _TOTALS)
        self._lines.append(f"{total} = {1 if name == 'product' else 0}")
        change = {"count": f"{total} += 1", "sum": f"{total} += {{item}}", "product": f"{total} *= {{item}}"}[name]
        self._loop(pending, change)
        self._lines.append(f"return {total}")

    def _loop(self, steps: list[Step], last: str) -> None:
        """Write a loop over the list that does the steps to each item, and ends with a statement on the item."""
        self._lines.append(f"for {self._item} in {self._list}:")
        indent, skips = _INDENT, self._is_free and self._rng.random() < 0.3
        mapped = steps[-1] if steps and steps[-1].operation.kind == "map" and "{item}" in last else None
        for step in steps if mapped is None else steps[:-1]:
            code = self._code(step)
            if step.operation.kind == "map":
                self._lines.append(f"{indent}{self._item} = {code}")
            elif skips:
                self._lines += [f"{indent}if not ({code}):", f"{indent}{_INDENT}continue"]
            else:
                self._lines.append(f"{indent}if {code}:")
                indent += _INDENT
        item = self._item if mapped is None else self._code(mapped)
        self._lines.append(indent + last.replace("{item}", item))

    def _code(self, step: Step) -> str:
        return _with(self._choose(step.operation.code), x=self._item, k=step.k)

    def _assign(self, expression: str) -> None:
        """Give a list a new name, so that the same line is never right or wrong by what its name was used for."""
        self._list = self._new(_LISTS)
        self._lines.append(f"{self._list} = {expression}")

    def _new(self, names: tuple[str, ...]) -> str:
        name = self._choose([name for name in names if name not in self._taken])
        self._taken.add(name)
        return name

    def _choose(self, options: Sequence[_T]) -> _T:
        return pick(self._rng, options) if self._is_free else options[0]


def _comprehensions(steps: list[Step]) -> list[tuple[list[Step], Step | None]]:
    """Divide steps on items into runs of filters that one map follows, or none."""
    runs: list[tuple[list[Step], Step | None]] = []
    filters: list[Step] = []
    for step in steps:
        if step.operation.kind == "filter":
            filters.append(step)
        else:
            runs.append((filters, step))
            filters = []
    return [*runs, (filters, None)] if filters else runs


def _with(code: str, **names: object) -> str:
    """Fill names and the parameter into a template of code."""
    filled = re.sub(r'\b(?:x|xs|p)\b(?!")', lambda match: str(names.get(match[0], match[0])), code)
    return filled.replace("{k}", str(names.get("k")))
