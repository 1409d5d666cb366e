"""The settings of a training run, which its figures are kept with."""

import json
from typing import Any

import lightning as L

from dmaxlit.evaluation.run_folder import flat


def hyperparameters_of(trainer: L.Trainer, module: L.LightningModule) -> dict[str, Any]:
    """Return the settings of a run by their dotted names, as JSON values; an infinite one as a text.

    Of a run of the command line, these are all settings of its configuration that are not empty, but for its folders,
    callbacks and loggers. Otherwise they are what module and data module have saved with ``save_hyperparameters``, and
    the trainer's limits and precision.

    Args:
        trainer: The trainer.
        module: The model.
    """
    configured: dict[str, Any] | None = getattr(trainer, "hyperparameters", None)
    if configured is None:
        data = getattr(trainer, "datamodule", None)
        limits = {name: getattr(trainer, name) for name in ("max_steps", "max_epochs", "precision")}
        configured = {"model": dict(module.hparams), "data": dict(getattr(data, "hparams", {})), "trainer": limits}
        configured["model"].setdefault("seed", getattr(module, "seed", None))
    settings = {name: value for name, value in flat(configured).items() if value is not None and value != {}}
    return dict(json.loads(json.dumps(settings, default=str), parse_constant=str))
