"""The weights of a run's best checkpoint, in place of those of the last step."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_warn

from dmaxlit.callbacks.run_checkpoint import RunCheckpoint
from dmaxlit.checkpoints.lightning_file import read_checkpoint
from dmaxlit.errors import DMaxWarning, UserError


def judge_of(trainer: L.Trainer) -> ModelCheckpoint | RunCheckpoint:
    """Return the trainer's RunCheckpoint if it monitors a metric, or else its first ModelCheckpoint that does.

    Raises:
        UserError: If there is none, or the model is shared by processes.
    """
    keepers = [c for c in trainer.checkpoint_callbacks if isinstance(c, (RunCheckpoint, ModelCheckpoint))]
    judges = sorted((c for c in keepers if c.monitor is not None), key=lambda c: isinstance(c, ModelCheckpoint))
    if not judges:
        raise UserError(
            "weights: expected --checkpoint.monitor, or a ModelCheckpoint with a monitor, for 'best', found none"
        )
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
