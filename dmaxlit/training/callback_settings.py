"""The callbacks that change what a run learns: those refused, and the settings of the others."""

from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch.callbacks import (
    BaseFinetuning,
    GradientAccumulationScheduler,
    ModelPruning,
    StochasticWeightAveraging,
    WeightAveraging,
)

from dmaxlit.data.identity import plain_values
from dmaxlit.errors import UserError

# Lightning's do not say so themselves, and do not keep all their options.
_OF_LIGHTNING = (
    GradientAccumulationScheduler,
    ModelPruning,
    StochasticWeightAveraging,
    WeightAveraging,
)


def check_callbacks(callbacks: Iterable[Any]) -> None:
    """Refuse Lightning's fine-tuning callbacks: a resumed run would not train what they had unfrozen before.

    Nor do schedules and optimisers made from named parameters take the parameter groups that they add.

    Args:
        callbacks: The callbacks of a trainer.

    Raises:
        UserError: If one of them is such a callback.
    """
    for callback in callbacks:
        if isinstance(callback, BaseFinetuning):
            raise UserError(
                "trainer.callbacks: expected none that unfreezes weights (BaseFinetuning), which a resumed run would "
                f"not train, got {type(callback).__name__}; what never trains can be frozen by requires_grad"
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
