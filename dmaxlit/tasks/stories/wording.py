"""How stories and answers are worded, and whether a sentence is one of the possible wordings of a step.

In a form, ``(a|b|c)`` is a choice and ``{name}`` a slot.
"""

import random
import re
from collections.abc import Mapping, Sequence
from functools import cache

from dmaxlit.tasks.drawing import pick
from dmaxlit.tasks.stories.plot import Event, Plot, Step

_PACKS = "(boxes|bags|crates|packs|bundles|cartons|trays|sets)"
_AT = "(at|near|behind|outside) the {place}"
_EVENTS: dict[str, tuple[str, ...]] = {
    "start": (
        "{who} (has|owns|starts with|keeps) {n} {thing}.",
        "There are {n} {thing} in the (bag|drawer|room|desk|cupboard) of {who}.",
    ),
    "more": ("{who} has {n} more {thing} than {other}.", "{who} (has|owns) {n} {thing} more than {other}."),
    "fewer": ("{who} has {n} fewer {thing} than {other}.", "{who} (has|owns) {n} {thing} fewer than {other}."),
    "multiple": ("{who} (has|owns) {n} times as many {thing} as {other}.",),
    "gain": (
        "{who} (buys|finds|collects|wins|earns|discovers|gathers|receives|picks up) {n} {thing} " + _AT + ".",
        "(At|Near|Behind|Outside) the {place} {who} (buys|finds|collects|wins|earns|gets|obtains) {n} (more |){thing}.",
    ),
    "lose": (
        "{who} (loses|sells|drops|breaks|forgets|spoils|ruins|donates|wastes) {n} {thing} " + _AT + ".",
        "(At|Near|Behind|Outside) the {place} {who} (loses|sells|drops|breaks|misplaces|discards) {n} {thing}.",
    ),
    "give": (
        "{who} (gives|hands|sends|passes|offers|mails|brings|returns) {n} {thing} to {other} " + _AT + ".",
        "(At|Near|Behind|Outside) the {place} {other} (gets|accepts|takes|borrows|receives) {n} {thing} from {who}.",
    ),
    "double": (
        "{who} doubles the number of {thing} " + _AT + ".",
        "(At|Near|Behind|Outside) the {place} {who} (gets|finds|buys) as many {thing} again.",
    ),
    "halve": (
        "{who} (loses|sells|drops|donates) half of the {thing} " + _AT + ".",
        "(At|Near|Behind|Outside) the {place} half of the {thing} of {who} (vanish|disappear|are stolen|are sold).",
    ),
    "share": (
        "{who} (shares|splits|divides) the {thing} equally among {n} (people|friends|children) "
        "and keeps one (part|share).",
    ),
    "packs": (
        "{who} (buys|orders|finds|receives) {n} " + _PACKS + " of {size} {thing} each " + _AT + ".",
        "(At|Near|Behind|Outside) the {place} {who} (buys|orders|gets) {n} " + _PACKS + " with {size} {thing} in each.",
    ),
}
_QUESTIONS = (
    "How many {thing} does {who} have (now|in the end|at the end|after all this)?",
    "How many {thing} are with {who} (now|in the end|at the end|finally)?",
)
_QUESTIONS_TOGETHER = (
    "How many {thing} do {who} and {other} have (together|in total|altogether) (now|in the end|at the end)?",
)
_STEPS: dict[str, tuple[str, ...]] = {
    "start": (
        "{who} (starts|begins) with {c} {thing}.",
        "(At first|Initially|Originally) {who} (has|owns|holds) {c} {thing}.",
        "{c} {thing} (are|were) with {who} (first|initially).",
    ),
    "more": (
        "{who} has {b} more than {other}, so {a} + {b} = {c} {thing}.",
        "{c} {thing} are with {who}, {b} (more than|on top of) the {a} of {other}.",
    ),
    "fewer": (
        "{who} has {b} fewer than {other}, so {a} - {b} = {c} {thing}.",
        "{c} {thing} are with {who}, {b} (fewer than|below) the {a} of {other}.",
    ),
    "multiple": (
        "{who} has {b} times those of {other}, so {b} * {a} = {c} {thing}.",
        "{c} {thing} are with {who}, {b} times the {a} of {other}.",
    ),
    "plus": (
        "{who} (now|then) has {a} + {b} = {c} {thing}.",
        "{c} {thing} (belong to|are with|are held by) {who} (since|because|as) {b} (came|went) on top of {a}.",
        "(Adding|Counting) {b} to {a} (gives|makes|brings) {who} {c} {thing}.",
        "From {a} {who} (goes|climbs|rises|moves) up to {c} {thing} with {b} more.",
        "{who} (gains|gets|adds) {b} on top of {a}, which (is|makes|means) {c} {thing}.",
    ),
    "minus": (
        "{who} (now|then) has {a} - {b} = {c} {thing}.",
        "{c} {thing} (stay|remain) with {who} (since|because|as) {b} of {a} are (gone|missing).",
        "(Taking|Removing) {b} from {a} (leaves|gives) {who} {c} {thing}.",
        "From {a} {who} (goes|falls|sinks|moves) down to {c} {thing} with {b} less.",
        "{who} (loses|misses) {b} out of {a}, which (is|leaves|means) {c} {thing}.",
    ),
    "times": (
        "{who} (now|then) has {a} * {b} = {c} {thing}.",
        "{c} {thing} (belong to|are with|are held by) {who}, (twice|double) the {a} (before|so far).",
        "Doubling {a} (gives|makes|brings) {who} {c} {thing}.",
    ),
    "divide": (
        "{who} (now|then) has {a} / {b} = {c} {thing}.",
        "{c} {thing} (stay|remain) with {who}, one of {b} (parts|shares) of {a}.",
        "(Dividing|Splitting) {a} by {b} (leaves|gives) {who} {c} {thing}.",
    ),
    "packed": (
        "{who} (buys|gets) {a} * {b} = {c} {thing}.",
        "{c} {thing} are in {a} (packs|lots) of {b} for {who}.",
        "{a} (packs|lots) of {b} (make|give|are) {c} {thing} for {who}.",
    ),
    "together": (
        "(Together|Altogether) {who} and {other} have {a} + {b} = {c} {thing}.",
        "{c} {thing} are the {a} of {who} and the {b} of {other}.",
    ),
}
_CONCLUSION = "(So|Thus|Therefore|Hence) the (answer|result|total|number) is #### {c}"
_CHOICE = re.compile(r"\(([^)]*)\)")


def tell(rng: random.Random, plot: Plot, places: Sequence[str], question_first: bool) -> str:
    """Return a wording of the story with its question, the last sentence or the first."""
    story, question = narrate(rng, plot, places), ask(rng, plot)
    return f"{question} {story}" if question_first else f"{story} {question}"


def narrate(rng: random.Random, plot: Plot, places: Sequence[str]) -> str:
    """Return a wording of the story without its question."""
    return " ".join(_word_event(rng, event, places) for event in plot.events)


def ask(rng: random.Random, plot: Plot) -> str:
    """Return a wording of the story's question."""
    first, together = plot.asked[0], plot.asked[1:]
    slots = {"who": first.person, "thing": first.thing, "other": together[0].person if together else ""}
    return _word(rng, _QUESTIONS_TOGETHER if together else _QUESTIONS, slots)


def reason(rng: random.Random, steps: Sequence[Step]) -> str:
    """Return a wording of the steps, ended by the conclusion."""
    sentences = [_word(rng, _STEPS[step.kind], _slots(step)) for step in steps]
    return " ".join([*sentences, _word(rng, [_CONCLUSION], {"c": str(steps[-1].result)})])


def is_step(sentence: str, step: Step) -> bool:
    """Return whether a sentence is a possible wording of a step, with the right names and numbers."""
    return any(_matches(form, _slots(step), sentence) for form in _STEPS[step.kind])


def is_conclusion(sentence: str, answer: int) -> bool:
    """Return whether a sentence is a possible wording of the conclusion, with the right answer."""
    return _matches(_CONCLUSION, {"c": str(answer)}, sentence)


def _word_event(rng: random.Random, event: Event, places: Sequence[str]) -> str:
    slots = {"who": event.holding.person, "thing": event.holding.thing, "other": event.other}
    slots |= {"n": str(event.amount), "size": str(event.size), "place": pick(rng, places)}
    return _word(rng, _EVENTS[event.kind], slots)


def _slots(step: Step) -> dict[str, str]:
    slots = {"who": step.holding.person, "thing": step.holding.thing, "other": step.other}
    return slots | {"a": str(step.left), "b": str(step.right), "c": str(step.result)}


def _word(rng: random.Random, forms: Sequence[str], slots: Mapping[str, str]) -> str:
    """Draw a form and its choices, and fill its slots."""
    return _CHOICE.sub(lambda choice: pick(rng, choice[1].split("|")), pick(rng, forms)).format(**slots)


def _matches(form: str, slots: Mapping[str, str], sentence: str) -> bool:
    found = _pattern(form).fullmatch(sentence)
    return found is not None and all(slots[name] == value for name, value in found.groupdict().items())


@cache
def _pattern(form: str) -> re.Pattern[str]:
    """Return the expression of a form's wordings, with a group for each slot."""
    pattern = ""
    for part in re.split(r"(\([^)]*\)|\{\w+\})", form):
        if part.startswith("{"):
            slot = part[1:-1]
            pattern += f"(?P={slot})" if f"(?P<{slot}>" in pattern else rf"(?P<{slot}>\w+)"
        elif part.startswith("("):
            pattern += "(?:" + "|".join(map(re.escape, part[1:-1].split("|"))) + ")"
        else:
            pattern += re.escape(part)
    return re.compile(pattern)
