"""One operation on a list, and a step of a program: an operation with its parameter."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Item", "Operation", "Step"]

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
