"""Strategies with the same options and different levels."""

import inspect
from typing import Any

from dmaxlit.errors import UserError, describe_value
from dmaxlit.factory import make_by_name
from dmaxlit.noise import NOISE, NoiseStrategy
from dmaxlit.noise.schedules import LevelDistribution


class NoiseFactory:
    """Makes strategies of one class.

    Args:
        noise: Registered name, import path or class.
        options: Options of every strategy.

    Raises:
        UserError: If there is no such class, or it is abstract; for an unknown option, or one of the wrong type or out
            of range.
    """

    def __init__(self, noise: str | type[NoiseStrategy], options: dict[str, Any]) -> None:
        self.cls = NOISE.get(noise) if isinstance(noise, str) else noise
        self.options = options
        if not isinstance(self.cls, type) or not issubclass(self.cls, NoiseStrategy):
            raise UserError(f"noise: expected a name or a subclass of NoiseStrategy, got {describe_value(noise)}")
        make_by_name("noise", NOISE, NoiseStrategy, self.cls, options)

    def make(self, **more: Any) -> NoiseStrategy:
        """Return a new strategy, with further options."""
        return self.cls(**{**self.options, **more})

    @property
    def takes_level(self) -> bool:
        """Whether the class has an option ``level``."""
        parameters = inspect.signature(self.cls).parameters
        if "level" in parameters:
            return True
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            return False
        try:  # the other options may go to a constructor without that one
            self.make(level=0.5)
        except TypeError:
            return False
        return True

    @property
    def takes_distribution(self) -> bool:
        """Whether the level may be a distribution, as in the constructor of the base class."""
        return self.takes_level and isinstance(getattr(self.make(level=0.5), "level", None), LevelDistribution)

    def at_levels(self, *levels: float) -> list[NoiseStrategy]:
        """Return a strategy at each level; one strategy if the class takes no level."""
        return [self.make(level=level) for level in levels] if self.takes_level else [self.make()]
