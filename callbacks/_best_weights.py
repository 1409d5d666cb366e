"""The weights that a run's ModelCheckpoint judged best, in place of those of the last step."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_warn

from dmaxlit.checkpoints.lightning_file import read_checkpoint
from dmaxlit.errors import DMaxWarning, UserError


def judge_of(trainer: L.Trainer) -> ModelCheckpoint:
    """Return the trainer's first ModelCheckpoint that monitors a metric.

    Raises:
        UserError: If there is none, or the model is shared by processes.
    """
    judges = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.monitor is not None]
    if not judges:
        raise UserError("weights: expected a ModelCheckpoint that monitors a metric for 'best', found none")
    if isinstance(trainer.strategy, ModelParallelStrategy):
        raise UserError("weights: expected 'last' for a model that processes share, got 'best'")
    return judges[0]


@contextmanager
def best_weights(trainer: L.Trainer, module: Any) -> Iterator[None]:
    """Give the module the weights of the best checkpoint until the context ends, and then those that it had.

    Without a checkpoint, for instance because there was no validation, the weights stay, with a warning.

    Raises:
        UserError: If the checkpoint cannot be read.
    """
    path = judge_of(trainer).best_model_path
    if not path or not Path(path).exists():
        rank_zero_warn("weights: there is no best checkpoint; those of the last step are used", category=DMaxWarning)
        yield
        return
    checkpoint = read_checkpoint(path)
    last = {name: value.detach().to("cpu", copy=True) for name, value in module.state_dict().items()}
    module.load_state_dict(checkpoint["state_dict"])
    module.chosen_step = int(checkpoint["global_step"])
    try:
        yield
    finally:
        module.load_state_dict(last)
        module.chosen_step = None
