"""What programs take: their arguments, and the list that is made of each."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dmaxlit.tasks.drawing import pick
from dmaxlit.tasks.programs.operation import Item

__all__ = ["INPUTS", "Input"]

_WORDS = (
    *("apple", "arrow", "banana", "basket", "bear", "bird", "blue", "boat", "book", "bread", "bridge", "cat"),
    *("chair", "cloud", "coat", "corn", "cup", "dog", "door", "dream", "dust", "ear", "east", "egg", "farm"),
    *("field", "fire", "fish", "flag", "forest", "fox", "garden", "gate", "glass", "gold", "grain", "hat"),
    *("hill", "horse", "ice", "ink", "island", "jar", "key", "king", "lake", "lamp", "leaf", "lemon", "lion"),
    *("map", "market", "meadow", "milk", "moon", "moss", "nest", "night", "oak", "ocean", "oil", "orange"),
    *("owl", "paper", "park", "pear", "pen", "pond", "rain", "ring", "river", "road", "root", "rose", "sand"),
    *("sea", "seed", "ship", "silver", "snow", "star", "stone", "storm", "street", "sun", "table", "tail"),
    *("tea", "tower", "train", "tree", "valley", "wall", "water", "west", "wind"),
)


@dataclass(frozen=True)
class Input:
    """The argument of a program.

    Args:
        name: Its name.
        item: Items of the list that is made of it.
        requests: Ways to say what the program takes and which list it makes of it.
        parameters: Names of the parameter in code.
        code: Ways to make the list, as expressions of the parameter ``p``.
        meaning: The list of an argument.
        draw: Draws an argument.
        least: The shortest or smallest argument.
    """

    name: str
    item: Item
    requests: tuple[str, ...]
    parameters: tuple[str, ...]
    code: tuple[str, ...]
    meaning: Callable[[Any], list[Any]]
    draw: Callable[[random.Random], Any]
    least: Any


def _number(rng: random.Random, lowest: int, highest: int) -> int:
    return lowest + int(rng.random() * (highest - lowest + 1))


def _numbers(rng: random.Random) -> list[int]:
    return [_number(rng, -20, 30) for _ in range(_number(rng, 3, 12))]


def _words(rng: random.Random) -> list[str]:
    return [pick(rng, _WORDS) for _ in range(_number(rng, 3, 12))]


INPUTS = (
    Input(
        "numbers",
        "number",
        ("takes a list of integers", "gets a list of whole numbers", "receives a list of numbers"),
        ("numbers", "values", "nums", "data", "xs", "items"),
        ("p",),
        list,
        _numbers,
        [],
    ),
    Input(
        "digits",
        "number",
        ("takes a non-negative integer and looks at its digits", "works on the decimal digits of a whole number"),
        ("n", "number", "value"),
        ("[int(d) for d in str(p)]", "list(map(int, str(p)))"),
        lambda n: [int(digit) for digit in str(n)],
        lambda rng: int("".join(str(_number(rng, 1, 9)) for _ in range(_number(rng, 3, 12)))),
        1,
    ),
    Input(
        "range",
        "number",
        ("takes an integer n and looks at the numbers from 1 to n", "works on all numbers from 1 up to its argument"),
        ("n", "limit", "end"),
        ("list(range(1, p + 1))", "[i for i in range(1, p + 1)]"),
        lambda n: list(range(1, n + 1)),
        lambda rng: _number(rng, 2, 40),
        1,
    ),
    Input(
        "divisors",
        "number",
        ("takes a positive integer and looks at its divisors", "works on the divisors of a number, in order"),
        ("n", "number", "value"),
        ("[d for d in range(1, p + 1) if p % d == 0]",),
        lambda n: [divisor for divisor in range(1, n + 1) if n % divisor == 0],
        lambda rng: _number(rng, 1, 60) * _number(rng, 1, 4),
        1,
    ),
    Input(
        "words",
        "word",
        ("takes a list of words", "gets a list of strings", "receives a list of words"),
        ("words", "items", "names", "data", "strings"),
        ("p",),
        list,
        _words,
        [],
    ),
    Input(
        "text",
        "word",
        ("takes a string and looks at its words", "works on the words of a text, which spaces separate"),
        ("text", "line", "sentence", "s"),
        ("p.split()",),
        str.split,
        lambda rng: " ".join(_words(rng)),
        "",
    ),
)
