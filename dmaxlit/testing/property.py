"""A property of a class that can be tested."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from dmaxlit.errors import UserError
from dmaxlit.randomness import generator_states, set_generator_states


class ContractError(AssertionError):
    """A property that does not hold. The message is one line: what was expected, what came, and often what to do."""


@dataclass(frozen=True)
class Property:
    """Something that holds for every class of a kind. Call it to test it; its text is its name.

    Args:
        name: The property in a few words.
        check: Tests it.
    """

    name: str
    check: Callable[[], None]

    def __call__(self) -> None:
        """Test the property, and leave the global random generators as they were.

        Raises:
            ContractError: If it does not hold. Exceptions of the tested class itself pass.
        """
        with _restored_generators():
            try:
                self.check()
            except UserError as error:
                raise ContractError(str(error)) from error

    def __str__(self) -> str:
        return self.name


def expect(holds: object, message: str) -> None:
    """Refuse what does not hold; ``assert`` would be removed by ``python -O``.

    Raises:
        ContractError: If ``holds`` is false.
    """
    if not holds:
        raise ContractError(message)


def seed_global_generators(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def changed_generator() -> str | None:
    """Return the name of a global generator that has been used since it was seeded with 0, or None."""
    states = generator_states(torch.device("cpu"))
    seed_global_generators(0)
    fresh = generator_states(torch.device("cpu"))
    used = (name for name in states if repr_of(states[name]) != repr_of(fresh[name]))
    return next(used, None)


def repr_of(state: object) -> object:
    """Return a generator's state as a plain value."""
    return state.tolist() if isinstance(state, torch.Tensor) else state


@contextmanager
def reading_no_value(subject: str) -> Iterator[None]:
    """Test that what runs on the meta device reads no value there, which would wait for a GPU.

    Args:
        subject: What has to decide by tensor operations alone, for the message.
    """
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        reason = str(error).strip().partition("\n")[0]
        expect(
            False,
            f"expected {subject} to decide by tensor operations alone, but it reads a value from the device (.item(), "
            f"an if on a tensor, an index by a mask, a tensor of another device): {reason}",
        )


@contextmanager
def _restored_generators() -> Iterator[None]:
    states = generator_states(torch.device("cpu"))
    try:
        yield
    finally:
        set_generator_states(states, torch.device("cpu"))
