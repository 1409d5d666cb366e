"""Requests in English."""

import random

from dmaxlit.tasks.drawing import pick
from dmaxlit.tasks.programs.operation import Step
from dmaxlit.tasks.programs.plan import Plan

__all__ = ["draw_name", "request"]

_VERBS = (
    *("get", "make", "compute", "find", "build", "collect", "process", "handle", "apply", "solve", "derive"),
    *("produce", "prepare", "convert", "reduce", "filter", "scan", "work_out", "figure_out", "run", "check"),
    *("transform", "shape"),
)
_NOUNS = (
    *("result", "values", "answer", "total", "items", "list", "data", "output", "score", "summary", "entries"),
    *("record", "series", "sequence", "input", "report", "selection", "figures", "parts", "things", "all"),
    *("rest", "batch", "set"),
)
_OPENINGS = (
    "Write a Python function {name} that {takes}.",
    "Write a function called {name}. It {takes}.",
    "Define a function {name}, which {takes}.",
    "I need a Python function with the name {name} that {takes}.",
    "Please write {name}, a function that {takes}.",
    "Implement {name}. This function {takes}.",
)
_RETURNS = ("return {end}", "give back {end}", "the result is {end}")


def draw_name(rng: random.Random) -> str:
    """Draw the name of a function."""
    return f"{pick(rng, _VERBS)}_{pick(rng, _NOUNS)}"


def request(rng: random.Random, plan: Plan, name: str) -> str:
    """Word the request for a program.

    Args:
        rng: Draws the wording.
        plan: The program.
        name: Name of the function.
    """
    opening = pick(rng, _OPENINGS).format(name=name, takes=pick(rng, plan.input.requests))
    steps = [_filled(rng, step) for step in plan.steps]
    end = pick(rng, _RETURNS).format(end=_filled(rng, plan.end))
    form = pick(rng, (_sentences, _listed, _in_one))
    return f"{opening}{form(steps, end)}"


def _filled(rng: random.Random, step: Step) -> str:
    return pick(rng, step.operation.requests).replace("{k}", str(step.k))


def _sentences(steps: list[str], end: str) -> str:
    leads = ["First", *["Then", "Next", "After that", "Then", "Next"][: len(steps) - 1]]
    told = [f" {lead} {step}." for lead, step in zip(leads, steps, strict=True)]
    return "".join([*told, f" At the end {end}." if not end.startswith("the result") else f" {_upper(end)}."])


def _listed(steps: list[str], end: str) -> str:
    return " Steps:" + "".join(f"\n{number}. {text}" for number, text in enumerate([*steps, end], start=1))


def _in_one(steps: list[str], end: str) -> str:
    return f" {_upper(', then '.join(steps))}; {end}."


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]
