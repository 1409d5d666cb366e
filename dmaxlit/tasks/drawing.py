"""Random orders that are the same on every machine and in every version of Python."""

import random
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def drawn(values: Iterable[T], rng: random.Random) -> list[T]:
    """Return the values in a random order.

    Only ``rng.random()`` is used: Python guarantees its sequence across versions.
    """
    keyed = [(rng.random(), number, value) for number, value in enumerate(values)]
    return [value for _, _, value in sorted(keyed, key=lambda item: item[:2])]
