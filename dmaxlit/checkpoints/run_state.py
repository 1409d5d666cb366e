"""What a run is beside its weights, optimiser and loops: random generators, metrics, logs, what was about to happen."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from dmaxlit.randomness import generator_states, set_generator_states

__all__ = ["finish_batch", "log_versions", "restore_run", "resume_logs", "run_state", "validation_is_due"]


def run_state(trainer: L.Trainer) -> dict[str, Any]:
    """Plain values and tensors; called on all ranks, whose random generators are gathered.

    Lightning logs a step's metrics after the hook in which checkpoints are written. They are kept, and logged by the
    run that goes on.
    """
    states: list[Any] = [generator_states(trainer.strategy.root_device)]
    if trainer.world_size > 1:
        states = [None] * trainer.world_size
        torch.distributed.all_gather_object(states, generator_states(trainer.strategy.root_device))
    step = trainer.fit_loop.epoch_loop._batches_that_stepped
    every = int(getattr(trainer, "log_every_n_steps", 0))
    due = trainer.training and every > 0 and (step + 1) % every == 0
    return {
        "generators": states,
        "metrics": _plain(trainer.callback_metrics),
        "unlogged": _plain(trainer._logger_connector.metrics["log"]) if due else {},
        "log_step": step,
        "void_from_step": step if trainer.training else step + 1,
        "log_versions": log_versions(trainer),
        "validation_is_due": trainer.validating or validation_is_due(trainer),
        "train_batch_is_last": bool(trainer.is_last_batch),
    }


def restore_run(trainer: L.Trainer, told: dict[str, Any]) -> None:
    """Take over generators and metrics, and log what was about to be; called when training starts, on all ranks."""
    if len(told["generators"]) == trainer.world_size:
        set_generator_states(told["generators"][trainer.global_rank], trainer.strategy.root_device)
    trainer.callback_metrics.update(told["metrics"])
    scalars = {name: float(value) for name, value in told["unlogged"].items() if value.numel() == 1}
    if scalars:
        for logger in trainer.loggers:
            logger.log_metrics({**scalars, "epoch": trainer.current_epoch}, step=told["log_step"])
    # Lightning takes the whole first epoch for a restart, and leaves out schedules that monitor a metric at its end.
    trainer.fit_loop._restarting = False


def log_versions(trainer: L.Trainer) -> list[str | int | None]:
    """The version of every logger; those of TensorBoard name the folder of the run's logs."""
    return [logger.version if isinstance(logger, TensorBoardLogger) else None for logger in trainer.loggers]


def resume_logs(trainer: L.Trainer, told: dict[str, Any]) -> None:
    """Let TensorBoard's logs go on where they were, as one curve; before their first use.

    Points of steps that are done again are marked as void.
    """
    for logger, version in zip(trainer.loggers, told["log_versions"], strict=False):
        if isinstance(logger, TensorBoardLogger) and version is not None:
            logger._version = version if logger._version is None else logger._version
            logger._kwargs["purge_step"] = told["void_from_step"]


def validation_is_due(trainer: L.Trainer) -> bool:
    """Whether validation follows the present training batch."""
    every, interval = trainer.check_val_every_n_epoch, trainer.val_check_batch
    if not trainer.enable_validation or (every is not None and (trainer.current_epoch + 1) % every):
        return False
    if interval is None or interval == float("inf"):
        return bool(trainer.is_last_batch)
    loop = trainer.fit_loop
    done = (loop.batch_idx if every is not None else loop.total_batch_idx) + 1
    return done % int(interval) == 0


def finish_batch(loops: dict[str, Any], told: dict[str, Any]) -> None:
    """Have Lightning do what was to follow the batch that a checkpoint was written after: validation, the epoch's end.

    A checkpoint written when a batch ends is read as if all that follows were done. Here it is changed into one
    written when validation was about to begin or, without validation, when the batch was over.

    Args:
        loops: Of the checkpoint, changed in place.
        told: Of :func:`run_state`.
    """
    if not (told["validation_is_due"] or told["train_batch_is_last"]):
        return
    fit = loops["fit_loop"]
    batches = fit["epoch_loop.batch_progress"]
    for counts in (batches["total"], batches["current"]):
        counts["completed"] = counts["processed"]
    if told["validation_is_due"]:
        validated = fit["epoch_loop.val_loop.batch_progress"]
        done = validated["total"]["completed"]
        validated["total"].update(ready=done + 1, started=done + 1, processed=done)
        validated["current"].update(ready=0, started=0, processed=0, completed=0)
        validated["is_last_batch"] = False
    else:
        fit["epoch_loop.state_dict"]["_batches_that_stepped"] += 1


def _plain(metrics: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: torch.as_tensor(value).detach().cpu().clone() for name, value in metrics.items()}
