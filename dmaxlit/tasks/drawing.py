"""Random choices and orders that are the same on every machine and in every version of Python.

Only ``rng.random()`` is used, whose sequence Python guarantees across versions.
"""

import random
from collections.abc import Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


def pick(rng: random.Random, choices: Sequence[T]) -> T:
    """Return one of several choices."""
    return choices[int(rng.random() * len(choices))]


def between(rng: random.Random, low: int, high: int) -> int:
    """Return a whole number from ``low`` to ``high``."""
    return low + int(rng.random() * (high - low + 1))


def drawn(rng: random.Random, values: Iterable[T]) -> list[T]:
    """Return the values in a random order."""
    keyed = [(rng.random(), number, value) for number, value in enumerate(values)]
    return [value for _, _, value in sorted(keyed, key=lambda item: item[:2])]
