"""Checks of the views that a user's own noise strategy yields, in the first steps of a run."""

from collections.abc import Generator, Mapping
from typing import Any

import torch
from torch import Tensor

from dmaxlit.errors import UserError, describe_value
from dmaxlit.noise.base import NoiseStrategy, View, Views
from dmaxlit.tokens import CleanBatch, SoftTokens
from dmaxlit.training.view_rules import VIEW_RULES

_NUM_BATCHES = 8
_LOGGED = ("loss_", "corrected_", "corrupted_", "rollout_error")  # figures of every view


class ViewChecks:
    """Checks the views of a strategy; dmaxlit's own are not checked, for its tests do that.

    Args:
        strategy: The strategy.
        enabled: Whether to check anything.
    """

    def __init__(self, strategy: NoiseStrategy, enabled: bool = True) -> None:
        self.strategy = strategy
        base = getattr(strategy, "base", None)  # whose views another strategy passes on
        checked = next(
            (part for part in (strategy, base) if isinstance(part, NoiseStrategy) and _is_foreign(part)), None
        )
        self._name = f"noise {type(strategy if checked is None else checked).__name__}"
        self._batches_left = _NUM_BATCHES if enabled and checked is not None else 0
        self._clean: CleanBatch | None = None
        self._ids = torch.empty(0)
        self._names: set[str] = set()

    def begin(self, views: object, clean: CleanBatch) -> Views:
        """Begin with the views of a batch; they must be a generator.

        Args:
            views: What ``views`` of the strategy returned.
            clean: The clean batch.

        Raises:
            UserError: If it is something else.
        """
        if not isinstance(views, Generator):
            raise UserError(
                f"{self._name}: expected views to be a generator, which yields its views, got {describe_value(views)}"
            )
        self._clean = None
        if self._batches_left:
            self._batches_left -= 1
            self._clean, self._ids, self._names = clean, clean.ids.clone(), set()
        return views

    def check(self, view: Any) -> View:
        """Return a view that keeps all rules.

        Raises:
            UserError: For the first rule that it breaks.
        """
        if self._clean is not None:
            self.check_types(view, self._clean)
            self._check_contents(view, self._clean)
            if view.requires_grad:  # the steps of a rollout, which have no loss, may share a name
                if view.name in self._names:
                    raise UserError(f"{self._name}: expected a name of its own for each view, got {view.name!r} twice")
                self._names.add(view.name)
        checked: View = view
        return checked

    @property
    def is_due(self) -> bool:
        """Whether the views of the batch that began last are checked."""
        return self._clean is not None

    def end(self, num_views: int) -> None:
        """Refuse a strategy that has yielded nothing.

        Raises:
            UserError: If so.
        """
        if num_views == 0:
            raise UserError(f"{self._name}: expected at least one view, got none")

    def check_types(self, view: Any, clean: CleanBatch) -> None:
        """Check types and shapes of a view.

        Raises:
            UserError: For the first that is wrong.
        """
        if not isinstance(view, View):
            raise UserError(f"{self._name}: expected views to yield a View, got {describe_value(view)}")
        if not isinstance(view.name, str) or not view.name:
            raise UserError(f"{self._name}: expected a text as a view's name, got {view.name!r}")
        shape = tuple(clean.ids.shape)
        expected = {"ids": torch.long, "supervised": torch.bool, "is_masked": torch.bool, "model_filled": torch.bool}
        for name, dtype in expected.items():
            value = getattr(view, name)
            if value is None and name in ("is_masked", "model_filled"):
                continue
            if not isinstance(value, Tensor) or tuple(value.shape) != shape or value.dtype != dtype:
                wanted = f"{str(dtype).removeprefix('torch.')} of shape {list(shape)}"
                raise UserError(
                    f"{self._name}: expected {name} of view {view.name!r} to be {wanted}, got {describe_value(value)}"
                )
        level = view.level
        if level is not None and not (isinstance(level, Tensor) and tuple(level.shape) == shape):
            raise UserError(
                f"{self._name}: expected level of view {view.name!r} to be of shape {list(shape)}, "
                f"got {describe_value(level)}"
            )
        weight = view.weight
        is_number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
        if not is_number and not (isinstance(weight, Tensor) and tuple(weight.shape) == shape):
            raise UserError(
                f"{self._name}: expected weight of view {view.name!r} to be a number or of shape {list(shape)}, "
                f"got {describe_value(weight)}"
            )
        self._check_objectives(view, clean)
        self._check_figures(view)
        if view.soft is not None:
            self._check_soft(view, view.soft, shape)

    def check_value(self, view: View, value: Any) -> Tensor:
        """Return what an objective of a view returned, if it can be the sum over some positions.

        Raises:
            UserError: If it cannot.
        """
        if not isinstance(value, Tensor) or value.dim() or not value.is_floating_point():
            raise UserError(
                f"{self._name}: expected each objective of view {view.name!r} to return a sum over positions, a scalar "
                f"float tensor, got {describe_value(value)}"
            )
        return value

    def _check_soft(self, view: View, soft: SoftTokens, shape: tuple[int, ...]) -> None:
        weights = soft.weights
        mixtures = (*shape, weights.shape[-1] if isinstance(weights, Tensor) and weights.dim() else 1)
        for name, value, wanted, dtype in (
            ("where", soft.where, shape, torch.bool),
            ("weights", weights, mixtures, None),
            ("ids", soft.ids, mixtures, torch.long),
        ):
            if not isinstance(value, Tensor) or tuple(value.shape) != wanted or dtype not in (None, value.dtype):
                kind = "a tensor" if dtype is None else str(dtype).removeprefix("torch.")
                raise UserError(
                    f"{self._name}: expected soft.{name} of view {view.name!r} to be {kind} of shape {list(wanted)}, "
                    f"got {describe_value(value)}"
                )

    def _check_objectives(self, view: View, clean: CleanBatch) -> None:
        if not isinstance(view.objectives, tuple) or not view.objectives or not all(map(callable, view.objectives)):
            raise UserError(
                f"{self._name}: expected objectives of view {view.name!r} to be a tuple of callables, at least one, "
                f"got {describe_value(view.objectives)}"
            )
        shape = (clean.ids.shape[0], clean.ids.shape[1] // clean.block_length)
        groups = view.groups
        is_right = isinstance(groups, Tensor) and tuple(groups.shape) == shape and groups.dtype == torch.long
        if groups is not None and not is_right:
            raise UserError(
                f"{self._name}: expected groups of view {view.name!r} to be int64 of shape {list(shape)}, "
                f"got {describe_value(groups)}"
            )

    def _check_figures(self, view: View) -> None:
        figures = view.figures
        if not isinstance(figures, Mapping) or not all(map(_is_figure, figures.items())):
            raise UserError(
                f"{self._name}: expected figures of view {view.name!r} to be names without spaces, each with a sum and "
                f"the number of what was summed, scalar tensors, got {describe_value(figures)}"
            )
        for name in figures:
            if name == "loss" or name.startswith(_LOGGED):
                raise UserError(
                    f"{self._name}: expected figures of view {view.name!r} to have names of their own, got {name!r}, "
                    "which is logged for every strategy"
                )

    def _check_contents(self, view: View, clean: CleanBatch) -> None:
        """Check all rules about values, with one transfer from the device."""
        found = {rule: rule.broken(view, clean, self._ids) for rule in VIEW_RULES}
        broken = {rule: positions.any() for rule, positions in found.items() if positions is not None}
        for rule, is_broken in zip(broken, torch.stack(list(broken.values())).tolist(), strict=True):
            if is_broken:
                text = rule.text.format(last_id=clean.special.vocab_size - 1)
                raise UserError(f"{self._name}: expected view {view.name!r} {text}")


def _is_foreign(strategy: NoiseStrategy) -> bool:
    return not type(strategy).__module__.startswith("dmaxlit.")


def _is_figure(figure: tuple[object, object]) -> bool:
    name, pair = figure
    return (
        isinstance(name, str)
        and len(name.split()) == 1
        and isinstance(pair, tuple)
        and len(pair) == 2
        and all(isinstance(value, Tensor) and value.dim() == 0 for value in pair)
    )
