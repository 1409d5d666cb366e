"""The callbacks that change what a run learns: those refused, and the settings of the others."""

from collections.abc import Iterable, Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelPruning,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.strategies import ModelParallelStrategy

from dmaxlit.checkpoints.lightning_internals import ends_after_search
from dmaxlit.data.identity import plain_values
from dmaxlit.errors import UserError

# Lightning's do not say so themselves, and do not keep all their options.
_OF_LIGHTNING = (
    GradientAccumulationScheduler,
    ModelPruning,
    StochasticWeightAveraging,
    WeightAveraging,
)


def check_callbacks(trainer: L.Trainer) -> None:
    """Refuse those of Lightning's callbacks with which a run cannot be resumed, or its model not be sharded.

    A resumed run would not train what fine-tuning callbacks had unfrozen before, nor do schedules and optimisers made
    from named parameters take the parameter groups that they add. Those that search a batch size or learning rate load
    a checkpoint of their own, and a resumed run would keep only the weights of its.

    Args:
        trainer: The trainer.

    Raises:
        UserError: If it has such a callback.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        name = type(callback).__name__
        if isinstance(callback, BaseFinetuning):
            raise UserError(
                "trainer.callbacks: expected none that unfreezes weights (BaseFinetuning), which a resumed run would "
                f"not train, got {name}; what never trains can be frozen by requires_grad"
            )
        if isinstance(callback, BatchSizeFinder | LearningRateFinder) and not ends_after_search(callback):
            raise UserError(
                "trainer.callbacks: expected none that searches for a setting before training, after which a resumed "
                f"run would begin anew, got {name}; search with lightning.pytorch.tuner.Tuner and set what it finds"
            )
        is_averaging = isinstance(callback, WeightAveraging | StochasticWeightAveraging)
        if is_averaging and isinstance(trainer.strategy, ModelParallelStrategy):
            raise UserError(
                "trainer.callbacks: expected none that averages weights where the model is sharded "
                f"({type(trainer.strategy).__name__}), got {name}; trainer.strategy ddp keeps it whole"
            )


def training_settings(callbacks: Iterable[Any], given: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the settings of those callbacks that change what a run learns, under the names of their classes.

    They are JSON values, as a checkpoint stores them; see :func:`~dmaxlit.data.identity.plain_values`.

    A callback names such options, which it keeps under their names, by an attribute of its class,
    ``training_options``. Of Lightning's callbacks that change weights or steps all options count.

    Args:
        callbacks: The callbacks of a trainer.
        given: ``class_path`` and ``init_args`` of those that the settings list.
    """
    options = {str(entry["class_path"]).rpartition(".")[2]: entry.get("init_args") or {} for entry in given}
    found: dict[str, dict[str, Any]] = {}
    for callback in callbacks:
        name, own = type(callback).__name__, getattr(callback, "training_options", None)
        if own is not None:
            found[name] = {option: getattr(callback, option) for option in own}
        elif isinstance(callback, _OF_LIGHTNING):
            found[name] = dict(options.get(name, {}))
    return plain_values(found)
