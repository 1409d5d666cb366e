"""What a run is trained on, where a callback replaces the losses of the noise strategy's views."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from dmaxlit.errors import UserError

__all__ = ["VIEWS", "Objective", "objective_of"]


@dataclass(frozen=True)
class Objective:
    """What a run is trained on.

    A callback that replaces the losses of the views says so by an attribute of its class, ``objective``. Then ``fit``
    does not go on with a checkpoint of another objective, and ``dmaxlit plan`` counts its passes.

    Args:
        name: Its name, for messages and for what a checkpoint stores.
        passes: Forward passes over a row alone, each with a backward pass; 0 for what the views of the noise strategy
            need.
        whole_logits: Whether all logits of a pass are in memory at once, and not a chunk of positions at a time.
    """

    name: str
    passes: int = 1
    whole_logits: bool = True


VIEWS = Objective("views", 0)
"""The losses of the views that the noise strategy yields."""


def objective_of(callbacks: Iterable[Any]) -> Objective:
    """Return what a run with these callbacks is trained on.

    Args:
        callbacks: Callbacks, or their classes.

    Raises:
        UserError: If two of them replace the losses.
    """
    attributes = [getattr(callback, "objective", None) for callback in callbacks]
    found = [objective for objective in attributes if isinstance(objective, Objective)]
    if len(found) > 1:
        names = " and ".join(repr(objective.name) for objective in found)
        raise UserError(f"trainer.callbacks: expected at most one that replaces the losses of the views, got {names}")
    return found[0] if found else VIEWS
