"""The settings that end a run, and whether a step is its last by them."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, Timer

from dmaxlit.checkpoints.lightning_internals import epochs_begun
from dmaxlit.errors import UserError


def limits(trainer: L.Trainer) -> dict[str, int]:
    """Return ``max_steps`` and ``max_epochs`` as they hold while the trainer runs; -1 for no limit."""
    epochs = trainer.max_epochs
    if epochs is None:  # as the trainer sets it when it runs
        has_timer = any(isinstance(callback, Timer) for callback in trainer.callbacks)  # type: ignore[attr-defined]
        epochs = 1000 if trainer.max_steps == -1 and not has_timer else -1
    return {"max_steps": trainer.max_steps, "max_epochs": epochs}


def refuse_shorter(trainer: L.Trainer, path: str | Path, checkpoint: dict[str, Any], advice: str = "") -> None:
    """Refuse limits that a checkpoint has passed: the run would end at once with the model of a later step.

    Args:
        trainer: The trainer.
        path: The checkpoint's path, for messages.
        checkpoint: Its content.
        advice: End of the message.

    Raises:
        UserError: If a limit is below the steps made or the epochs begun.
    """
    reached = {
        "max_steps": (checkpoint["global_step"], "steps made"),
        "max_epochs": (epochs_begun(checkpoint["loops"]), "epochs begun"),
    }
    for name, limit in limits(trainer).items():
        least, what = reached[name]
        if 0 <= limit < least:
            raise UserError(f"trainer.{name}: expected at least {least}, the {what} in {path}, got {limit}{advice}")


def is_last_step(trainer: L.Trainer) -> bool:
    """Return whether a limit is reached with the current training batch."""
    epochs = limits(trainer)["max_epochs"]
    last_epoch = 0 < epochs <= trainer.current_epoch + 1 and trainer.is_last_batch
    return last_epoch or 0 < trainer.max_steps <= trainer.global_step


def keep_patience(trainer: L.Trainer, checkpoint: dict[str, Any]) -> None:
    """Let ``EarlyStopping`` keep the patience that it is configured with, not the one in the checkpoint.

    Args:
        trainer: The trainer of the resumed run.
        checkpoint: Its checkpoint; changed in place.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EarlyStopping) and (state := checkpoint.get("callbacks", {}).get(callback.state_key)):
            state["patience"] = callback.patience
