"""The order in which callbacks run."""

import lightning as L
from lightning.pytorch.callbacks import Checkpoint


def run_after_others(trainer: L.Trainer, callback: L.Callback) -> None:
    """Let a callback run after all others, but before those that write checkpoints, wherever it stands in the list.

    Other callbacks may change the weights, as weight averaging does when training ends. To be called in ``setup``: the
    list is replaced, so that hooks that are running are not disturbed.

    Args:
        trainer: The trainer.
        callback: The callback.
    """
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    others = [other for other in callbacks if other is not callback]
    writers = [other for other in others if isinstance(other, Checkpoint)]
    rest = [other for other in others if not isinstance(other, Checkpoint)]
    trainer.callbacks = [*rest, callback, *writers]  # type: ignore[attr-defined]
