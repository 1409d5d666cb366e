"""The operations that programs are made of, on lists of numbers or of words: request, code and meaning of each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

__all__ = ["ENDS", "OPERATIONS", "Item", "Operation", "Step"]

Item = Literal["number", "word"]
Kind = Literal["map", "filter", "whole", "end"]


@dataclass(frozen=True)
class Operation:
    """One thing to do with a list.

    Args:
        name: Its name among those for the same items.
        kind: ``map`` turns each item ``x`` into another one and ``filter`` keeps some items; ``whole`` turns the list
            ``xs`` into another one, and ``end`` turns it into the result.
        requests: Ways to ask for it, in the imperative; of an ``end``, ways to name the result.
        code: Ways to write it, as an expression of ``x`` or ``xs``.
        meaning: The function of an item or list, and of the parameter.
        parameters: Values of the parameter ``k``; ``(None,)`` if it has none.
    """

    name: str
    kind: Kind
    requests: tuple[str, ...]
    code: tuple[str, ...]
    meaning: Callable[[Any, Any], Any]
    parameters: Sequence[Any] = (None,)


@dataclass(frozen=True)
class Step:
    """An operation with its parameter."""

    operation: Operation
    k: Any

    @property
    def key(self) -> str:
        """Name and parameter, which say what the step does."""
        return self.operation.name if self.k is None else f"{self.operation.name} {self.k}"

    def run(self, values: list[Any]) -> Any:
        """Do it to a list."""
        meaning, k = self.operation.meaning, self.k
        if self.operation.kind == "map":
            return [meaning(value, k) for value in values]
        if self.operation.kind == "filter":
            return [value for value in values if meaning(value, k)]
        return meaning(values, k)


_SMALL, _TWO_DIGITS, _COUNTS = range(2, 10), range(2, 16), range(1, 5)

_NUMBERS = (
    Operation(
        "double",
        "map",
        ("double each number", "multiply each number by two", "replace each number by twice its value"),
        ("x * 2", "2 * x", "x + x"),
        lambda x, k: 2 * x,
    ),
    Operation(
        "times",
        "map",
        ("multiply each number by {k}", "replace each number by {k} times its value", "scale each number by {k}"),
        ("x * {k}", "{k} * x"),
        lambda x, k: k * x,
        range(3, 10),
    ),
    Operation(
        "plus",
        "map",
        ("add {k} to each number", "increase each number by {k}", "make each number {k} larger"),
        ("x + {k}", "{k} + x"),
        lambda x, k: x + k,
        _TWO_DIGITS,
    ),
    Operation(
        "minus",
        "map",
        ("subtract {k} from each number", "decrease each number by {k}", "make each number {k} smaller"),
        ("x - {k}",),
        lambda x, k: x - k,
        _TWO_DIGITS,
    ),
    Operation(
        "square",
        "map",
        ("square each number", "multiply each number by itself", "replace each number by its square"),
        ("x * x", "x ** 2"),
        lambda x, k: x * x,
    ),
    Operation(
        "negate",
        "map",
        ("negate each number", "flip the sign of each number", "replace each number by its negative"),
        ("-x", "0 - x"),
        lambda x, k: -x,
    ),
    Operation(
        "size",
        "map",
        ("take the absolute value of each number", "drop the sign of each number"),
        ("abs(x)", "max(x, -x)"),
        lambda x, k: abs(x),
    ),
    Operation(
        "remainder",
        "map",
        ("replace each number by its remainder after division by {k}", "take each number modulo {k}"),
        ("x % {k}",),
        lambda x, k: x % k,
        range(3, 10),
    ),
    Operation(
        "even",
        "filter",
        ("keep the even numbers", "drop the odd numbers", "select only even numbers"),
        ("x % 2 == 0", "x % 2 != 1"),
        lambda x, k: x % 2 == 0,
    ),
    Operation(
        "odd",
        "filter",
        ("keep the odd numbers", "drop the even numbers", "select only odd numbers"),
        ("x % 2 == 1", "x % 2 != 0"),
        lambda x, k: x % 2 == 1,
    ),
    Operation(
        "positive",
        "filter",
        ("keep the positive numbers", "select numbers above zero", "drop numbers that are zero or below"),
        ("x > 0", "0 < x"),
        lambda x, k: x > 0,
    ),
    Operation(
        "negative",
        "filter",
        ("keep the negative numbers", "select numbers below zero"),
        ("x < 0", "0 > x"),
        lambda x, k: x < 0,
    ),
    Operation(
        "above",
        "filter",
        ("keep numbers greater than {k}", "drop numbers that are at most {k}", "select numbers above {k}"),
        ("x > {k}", "{k} < x"),
        lambda x, k: x > k,
        _TWO_DIGITS,
    ),
    Operation(
        "below",
        "filter",
        ("keep numbers less than {k}", "drop numbers that are at least {k}", "select numbers below {k}"),
        ("x < {k}", "{k} > x"),
        lambda x, k: x < k,
        _TWO_DIGITS,
    ),
    Operation(
        "multiple",
        "filter",
        ("keep the multiples of {k}", "keep numbers divisible by {k}", "select numbers that {k} divides"),
        ("x % {k} == 0",),
        lambda x, k: x % k == 0,
        range(3, 8),
    ),
    Operation(
        "not multiple",
        "filter",
        ("drop the multiples of {k}", "drop numbers divisible by {k}"),
        ("x % {k} != 0", "x % {k} > 0"),
        lambda x, k: x % k != 0,
        range(3, 8),
    ),
    Operation(
        "sum",
        "end",
        ("their sum", "the sum of the numbers", "the total"),
        ("sum(xs)",),
        lambda xs, k: sum(xs),
    ),
    Operation(
        "product",
        "end",
        ("their product", "the product of the numbers"),
        (),
        lambda xs, k: prod(xs),
    ),
    Operation(
        "largest",
        "end",
        ("the largest number, or 0 if there is none", "the maximum, or 0 for an empty list"),
        ("max(xs, default=0)", "max(xs) if xs else 0"),
        lambda xs, k: max(xs, default=0),
    ),
    Operation(
        "smallest",
        "end",
        ("the smallest number, or 0 if there is none", "the minimum, or 0 for an empty list"),
        ("min(xs, default=0)", "min(xs) if xs else 0"),
        lambda xs, k: min(xs, default=0),
    ),
)

_WORDS = (
    Operation(
        "upper",
        "map",
        ("write each word in capitals", "convert each word to upper case", "capitalize all letters of each word"),
        ("x.upper()",),
        lambda x, k: x.upper(),
    ),
    Operation(
        "reversed word",
        "map",
        ("reverse each word", "turn each word around", "spell each word backwards"),
        ("x[::-1]", '"".join(reversed(x))'),
        lambda x, k: x[::-1],
    ),
    Operation(
        "repeat",
        "map",
        ("repeat each word {k} times", "write each word {k} times without a gap"),
        ("x * {k}", "{k} * x"),
        lambda x, k: x * k,
        range(2, 4),
    ),
    Operation(
        "beginning",
        "map",
        ("cut each word to its first {k} letters", "keep only the first {k} letters of each word"),
        ("x[:{k}]", "x[0:{k}]"),
        lambda x, k: x[:k],
        range(1, 5),
    ),
    Operation(
        "suffix",
        "map",
        ('append "{k}" to each word', 'put "{k}" behind each word', 'add "{k}" to the end of each word'),
        ('x + "{k}"',),
        lambda x, k: x + k,
        ("s", "ed", "ing", "er", "ly", "x", "o"),
    ),
    Operation(
        "prefix",
        "map",
        ('put "{k}" in front of each word', 'start each word with "{k}"', 'prepend "{k}" to each word'),
        ('"{k}" + x',),
        lambda x, k: k + x,
        ("re", "un", "pre", "a", "o", "over"),
    ),
    Operation(
        "replace a",
        "map",
        ('replace every "a" by "{k}" in each word', 'turn each "a" of the words into "{k}"'),
        ('x.replace("a", "{k}")',),
        lambda x, k: x.replace("a", k),
        ("o", "e", "u", "i"),
    ),
    Operation(
        "longer",
        "filter",
        ("keep words of more than {k} letters", "drop words of at most {k} letters", "keep words longer than {k}"),
        ("len(x) > {k}", "{k} < len(x)"),
        lambda x, k: len(x) > k,
        range(2, 7),
    ),
    Operation(
        "shorter",
        "filter",
        ("keep words of fewer than {k} letters", "drop words of at least {k} letters", "keep words shorter than {k}"),
        ("len(x) < {k}", "{k} > len(x)"),
        lambda x, k: len(x) < k,
        range(4, 9),
    ),
    Operation(
        "contains",
        "filter",
        ('keep words that contain "{k}"', 'drop words without "{k}"', 'select words with an "{k}" in them'),
        ('"{k}" in x', 'x.count("{k}") > 0'),
        lambda x, k: k in x,
        ("a", "e", "i", "o", "r", "s", "t", "n", "l"),
    ),
    Operation(
        "lacks",
        "filter",
        ('drop words that contain "{k}"', 'keep words without "{k}"'),
        ('"{k}" not in x', 'x.count("{k}") == 0'),
        lambda x, k: k not in x,
        ("a", "e", "i", "o", "r", "s", "t", "n", "l"),
    ),
    Operation(
        "starts",
        "filter",
        ('keep words that start with "{k}"', 'select words beginning with "{k}"'),
        ('x.startswith("{k}")', 'x[:1] == "{k}"'),
        lambda x, k: x.startswith(k),
        ("a", "b", "c", "d", "f", "g", "m", "p", "s", "t"),
    ),
    Operation(
        "even length",
        "filter",
        ("keep words with an even number of letters", "drop words with an odd number of letters"),
        ("len(x) % 2 == 0", "len(x) % 2 != 1"),
        lambda x, k: len(x) % 2 == 0,
    ),
    Operation(
        "joined",
        "end",
        ('the words joined by "{k}"', 'one string of the words with "{k}" between them'),
        ('"{k}".join(xs)',),
        lambda xs, k: k.join(xs),
        ("-", ", ", "+", "/", " "),
    ),
    Operation(
        "letters",
        "end",
        ("the total number of letters", "how many letters the words have together"),
        ("sum(len(x) for x in xs)", 'len("".join(xs))'),
        lambda xs, k: sum(map(len, xs)),
    ),
    Operation(
        "longest",
        "end",
        ("the length of the longest word, or 0 if there is none",),
        ("max((len(x) for x in xs), default=0)", "max([len(x) for x in xs], default=0)"),
        lambda xs, k: max(map(len, xs), default=0),
    ),
)

_ANY = (
    Operation(
        "sorted",
        "whole",
        ("sort the list", "put the list in ascending order", "arrange the list from smallest to largest"),
        ("sorted(xs)",),
        lambda xs, k: sorted(xs),
    ),
    Operation(
        "sorted down",
        "whole",
        ("sort the list in descending order", "arrange the list from largest to smallest"),
        ("sorted(xs, reverse=True)", "sorted(xs)[::-1]"),
        lambda xs, k: sorted(xs, reverse=True),
    ),
    Operation(
        "reversed",
        "whole",
        ("reverse the list", "turn the order of the list around", "put the list in reverse order"),
        ("xs[::-1]", "list(reversed(xs))"),
        lambda xs, k: xs[::-1],
    ),
    Operation(
        "distinct",
        "whole",
        ("drop repeated values", "keep only the first of equal values", "remove duplicates but keep the order"),
        ("list(dict.fromkeys(xs))",),
        lambda xs, k: list(dict.fromkeys(xs)),
    ),
    Operation(
        "first",
        "whole",
        ("take the first {k} of the list", "keep at most {k} from the start of the list"),
        ("xs[:{k}]", "xs[0:{k}]"),
        lambda xs, k: xs[:k],
        range(2, 6),
    ),
    Operation(
        "without first",
        "whole",
        ("skip the first {k} of the list", "drop {k} from the start of the list"),
        ("xs[{k}:]",),
        lambda xs, k: xs[k:],
        _COUNTS,
    ),
    Operation(
        "last",
        "whole",
        ("take the last {k} of the list", "keep at most {k} from the end of the list"),
        ("xs[-{k}:]",),
        lambda xs, k: xs[-k:],
        range(2, 6),
    ),
    Operation(
        "every second",
        "whole",
        ("take every second one, starting with the first", "skip every other one, but keep the first"),
        ("xs[::2]",),
        lambda xs, k: xs[::2],
    ),
    Operation(
        "list",
        "end",
        ("the list", "the resulting list", "the new list"),
        ("xs",),
        lambda xs, k: xs,
    ),
    Operation(
        "count",
        "end",
        ("how many there are", "the length of the list", "the number of values left"),
        ("len(xs)",),
        lambda xs, k: len(xs),
    ),
    Operation(
        "more than",
        "end",
        ("whether there are more than {k} of them", "True if more than {k} are left, else False"),
        ("len(xs) > {k}", "{k} < len(xs)"),
        lambda xs, k: len(xs) > k,
        _COUNTS,
    ),
)

_ALL: dict[Item, tuple[Operation, ...]] = {"number": (*_NUMBERS, *_ANY), "word": (*_WORDS, *_ANY)}

#: What a step in the middle of a program can do, by the kind of items.
OPERATIONS: dict[Item, tuple[Operation, ...]] = {
    item: tuple(operation for operation in operations if operation.kind != "end") for item, operations in _ALL.items()
}
#: What a program can return, by the kind of items.
ENDS: dict[Item, tuple[Operation, ...]] = {
    item: tuple(operation for operation in operations if operation.kind == "end") for item, operations in _ALL.items()
}
