"""What happens in a story: who has how much at first, the events, the question, and the steps that answer it."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from dmaxlit.tasks.base import Split, split_of
from dmaxlit.tasks.drawing import between, pick

T = TypeVar("T")


class Holding(NamedTuple):
    """The things of one kind that a person has."""

    person: str
    thing: str


@dataclass(frozen=True)
class Event:
    """One sentence of the story.

    Args:
        kind: ``start`` (has ``amount``), ``more``, ``fewer`` or ``multiple`` (has ``amount`` more than, fewer than or
            times as many as ``other`` at first), ``gain``, ``lose``, ``give`` (``amount`` to ``other``), ``double``,
            ``halve``, ``share`` (equally among ``amount`` people) or ``packs`` (buys ``amount`` packs of ``size``).
        holding: Whose things change.
        amount: The number in the sentence.
        other: The other person, or empty.
        size: Things in a pack.
    """

    kind: str
    holding: Holding
    amount: int
    other: str = ""
    size: int = 0


class Step(NamedTuple):
    """One sentence of the answer: ``result = left operator right``.

    ``kind`` says what the sentence is about: ``start`` has no operands.
    """

    kind: str
    holding: Holding
    left: int
    right: int
    result: int
    other: str = ""


@dataclass(frozen=True)
class Plot:
    """A story without its wording.

    Args:
        events: The events in order, those that say what people have at first before all others.
        asked: The holdings that the question asks for, together.
    """

    events: tuple[Event, ...]
    asked: tuple[Holding, ...]

    @property
    def key(self) -> str:
        """The story as a text that its wording does not change; it decides the split, so it must stay as it is."""
        events = (f"{e.kind} {e.holding.person} {e.holding.thing} {e.amount} {e.other} {e.size}" for e in self.events)
        return "; ".join([*events, *(f"ask {holding.person} {holding.thing}" for holding in self.asked)])


@dataclass(frozen=True)
class Scale:
    """The size of stories.

    Args:
        people: Number of people.
        things: Kinds of things that each of them has.
        events: Number of events after the start.
        steps: Least and most sentences of the answer but for the conclusion.
        starts: Least and most things at first.
        changes: Least and most things that an event adds or takes.
        limit: Most things that anyone ever has.
        kinds: Kinds of events to draw from; a kind that is repeated is more frequent.
        comparisons: Kinds of comparisons with what somebody else has at first, drawn like ``kinds``; ``start`` is none.
        together: Probability that the question asks for two people's things together.
    """

    people: int
    things: int
    events: int
    steps: tuple[int, int]
    starts: tuple[int, int]
    changes: tuple[int, int]
    limit: int
    kinds: tuple[str, ...]
    comparisons: tuple[str, ...] = ("start",)
    together: float = 0.0


_FACTORS = {"double": 2, "halve": 2}
_FEWEST = 2  # no holding is ever smaller, so that every noun is a plural
_TRIES = 20  # draws of an event before the story is given up
_FOCUS = 0.75  # probability that an event is drawn for somebody the question asks for


def draw_plot(rng: random.Random, scale: Scale, names: Sequence[str], things: Sequence[str]) -> Plot:
    """Draw a story of a size.

    Args:
        rng: Source of randomness.
        scale: The size.
        names: Names to draw from, at least as many as people.
        things: Things to draw from, at least as many as kinds.
    """
    while True:
        people, kinds = _some(rng, names, scale.people), _some(rng, things, scale.things)
        asked = [Holding(people[0], kinds[0])]
        if rng.random() < scale.together:
            asked.append(Holding(people[1], kinds[0]))
        events = _draw_events(rng, scale, people, kinds, asked)
        if events is None:
            continue
        plot = Plot(tuple(events), tuple(asked))
        if scale.steps[0] <= len(solve(plot)) <= scale.steps[1]:
            return plot


def draw_split(split: Split, number: int, draw: Callable[[], Plot]) -> list[Plot]:
    """Return the first stories of a split, none of them twice.

    Args:
        split: The split.
        number: How many.
        draw: Draws a story of any split.
    """
    plots: dict[str, Plot] = {}
    while len(plots) < number:
        plot = draw()
        if split_of(plot.key) == split:
            plots.setdefault(plot.key, plot)
    return list(plots.values())


def solve(plot: Plot) -> list[Step]:
    """Return the steps that lead to the answer, which is the last one's result; none is superfluous."""
    needed, relevant = set(plot.asked), []
    for event in reversed(plot.events):
        changed = (
            {event.holding, Holding(event.other, event.holding.thing)} if event.kind == "give" else {event.holding}
        )
        relevant.append(changed & needed)
        if event.kind in ("more", "fewer", "multiple") and event.holding in needed:
            needed.add(Holding(event.other, event.holding.thing))
    have: dict[Holding, int] = {}
    steps: list[Step] = []
    for event, holdings in zip(plot.events, reversed(relevant), strict=True):
        steps += [step for step in apply(event, have) if holdings and step.holding in holdings]
    if len(plot.asked) > 1:
        first, second = plot.asked
        total = have[first] + have[second]
        steps.append(Step("together", first, have[first], have[second], total, second.person))
    return steps


def apply(event: Event, have: dict[Holding, int]) -> list[Step]:
    """Return the steps of one event; update what everybody has.

    Args:
        event: The event.
        have: Number of things of each holding so far; changed in place.
    """
    holding, amount = event.holding, event.amount
    counterpart = Holding(event.other, holding.thing)
    before = have.get(holding, 0)
    if event.kind == "start":
        steps = [Step("start", holding, 0, 0, amount)]
    elif event.kind in ("more", "fewer", "multiple"):
        base = have[counterpart]
        result = {"more": base + amount, "fewer": base - amount, "multiple": base * amount}[event.kind]
        steps = [Step(event.kind, holding, base, amount, result, event.other)]
    elif event.kind == "gain":
        steps = [Step("plus", holding, before, amount, before + amount)]
    elif event.kind == "lose":
        steps = [Step("minus", holding, before, amount, before - amount)]
    elif event.kind == "give":
        received = have.get(counterpart, 0)
        steps = [Step("minus", holding, before, amount, before - amount)]
        steps.append(Step("plus", counterpart, received, amount, received + amount))
    elif event.kind == "double":
        steps = [Step("times", holding, before, 2, before * 2)]
    elif event.kind == "packs":
        added = amount * event.size
        steps = [
            Step("packed", holding, amount, event.size, added),
            Step("plus", holding, before, added, before + added),
        ]
    else:  # halve, share
        steps = [Step("divide", holding, before, amount, before // amount)]
    for step in steps:
        have[step.holding] = step.result
    return steps


def _draw_events(
    rng: random.Random, scale: Scale, people: Sequence[str], things: Sequence[str], asked: Sequence[Holding]
) -> list[Event] | None:
    """Return the events of a story, or None if it has come to a dead end."""
    have: dict[Holding, int] = {}
    events = []
    for thing in things:
        order = _some(rng, people, len(people))
        for index, person in enumerate(order):
            kind = pick(rng, scale.comparisons) if index else "start"
            amount = between(rng, *(scale.starts if kind == "start" else scale.changes))
            if kind == "multiple":
                amount = between(rng, 2, 4)
            other = "" if kind == "start" else order[index - 1]
            events.append(Event(kind, Holding(person, thing), amount, other))
            if not _fits(events[-1], have, scale.limit):
                return None
    for _ in range(scale.events):
        for _ in range(_TRIES):
            event = _draw_event(rng, scale, people, things, asked)
            if _fits(event, have, scale.limit):
                events.append(event)
                break
        else:
            return None
    return events


def _draw_event(
    rng: random.Random, scale: Scale, people: Sequence[str], things: Sequence[str], asked: Sequence[Holding]
) -> Event:
    holding = pick(rng, asked) if rng.random() < _FOCUS else Holding(pick(rng, people), pick(rng, things))
    kind = pick(rng, scale.kinds)
    amount, other, size = between(rng, *scale.changes), "", 0
    if kind == "give":
        other = pick(rng, [person for person in people if person != holding.person])
        if rng.random() < 0.5:
            holding, other = Holding(other, holding.thing), holding.person
    elif kind == "share":
        amount = between(rng, 3, 5)
    elif kind == "packs":
        amount, size = between(rng, 2, 5), between(rng, 2, 9)
    return Event(kind, holding, _FACTORS.get(kind, amount), other, size)


def _fits(event: Event, have: dict[Holding, int], limit: int) -> bool:
    """Apply an event if all that follows from it is a whole number within the limits; return whether it did."""
    trial = dict(have)
    for step in apply(event, trial):
        if not _FEWEST <= step.result <= limit or (step.kind == "divide" and step.result * step.right != step.left):
            return False
    have.update(trial)
    return True


def _some(rng: random.Random, choices: Sequence[T], count: int) -> list[T]:
    """Return ``count`` different choices in random order."""
    chosen: list[T] = []
    while len(chosen) < count:
        choice = pick(rng, choices)
        if choice not in chosen:
            chosen.append(choice)
    return chosen
