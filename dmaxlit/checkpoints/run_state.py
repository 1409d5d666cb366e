"""Run state that Lightning checkpoints omit: RNG states, unlogged metrics, logger versions and pending validation."""

import copy
import json
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.loggers import TensorBoardLogger

from dmaxlit.checkpoints.lightning_internals import (
    complete_batch,
    count_step,
    end_restart,
    load_loader_states,
    log_step,
    request_validation,
    rescale_batches,
    resume_log,
    step_metrics,
)
from dmaxlit.randomness import generator_states, run_seed, seed_generators, set_generator_states


def run_state(trainer: L.Trainer) -> dict[str, Any]:
    """Return the state as plain values and tensors; called on all ranks, whose random generators are gathered.

    Lightning logs a step's metrics after the hook in which checkpoints are written. So they are stored, and logged by
    the resumed run.
    """
    states: list[Any] = [generator_states(trainer.strategy.root_device)]
    if trainer.world_size > 1:
        states = [None] * trainer.world_size
        torch.distributed.all_gather_object(states, generator_states(trainer.strategy.root_device))
    step = log_step(trainer)
    every = int(getattr(trainer, "log_every_n_steps", 0))
    is_due = trainer.training and every > 0 and (step + 1) % every == 0
    return {
        "generators": states,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "metrics": _detached(trainer.callback_metrics),
        "unlogged": _detached(step_metrics(trainer)) if is_due else {},
        "log_step": step,
        "void_from_step": step if trainer.training else step + 1,
        "log_versions": log_versions(trainer),
        "validation_is_due": trainer.validating or validation_is_due(trainer),
        "train_batch_is_last": bool(trainer.is_last_batch),
    }


def batch_end(trainer: L.Trainer) -> dict[str, Any]:
    """Return what changes between the end of a batch and the end of training, if that comes without another batch.

    A callback may stop training in validation or at the end of an epoch. A checkpoint of the last step with these
    values (:func:`as_of`) lets a longer run repeat both, and decide anew.
    """
    states = {callback.state_key: callback.state_dict() for callback in trainer.callbacks}  # type: ignore[attr-defined]
    return {
        "epoch": trainer.current_epoch,
        "global_step": trainer.global_step,
        "callbacks": copy.deepcopy({key: state for key, state in states.items() if state}),
        "fit_loop": copy.deepcopy(trainer.fit_loop.state_dict()),
        "dmaxlit_run": run_state(trainer),
    }


def as_of(checkpoint: dict[str, Any], end: dict[str, Any]) -> None:
    """Give a checkpoint the values of :func:`batch_end`.

    Args:
        checkpoint: The checkpoint, with ``dmaxlit_run``; changed in place.
        end: Result of :func:`batch_end` after the same step.
    """
    checkpoint.update(epoch=end["epoch"], callbacks=end["callbacks"])
    checkpoint["loops"]["fit_loop"] = end["fit_loop"]
    checkpoint["dmaxlit_run"].update(end["dmaxlit_run"])


def restore_run(trainer: L.Trainer, state: dict[str, Any]) -> None:
    """Restore generators and metrics, and log what was pending; called when training starts, on all ranks.

    A rank that the interrupted run did not have draws from generators seeded by run, rank and step.

    Args:
        trainer: The trainer of the resumed run.
        state: Result of :func:`run_state` in the interrupted run.
    """
    if trainer.global_rank < len(state["generators"]):
        set_generator_states(state["generators"][trainer.global_rank], trainer.strategy.root_device)
    else:
        seed_generators("rank", run_seed(), trainer.global_rank, trainer.global_step)
    for scheduler in accumulation_schedulers(trainer):  # Lightning calls it where an epoch begins, not within one
        scheduler.on_train_epoch_start(trainer, trainer.lightning_module)
    trainer.callback_metrics.update(state["metrics"])
    scalars = {name: float(value) for name, value in state["unlogged"].items() if value.numel() == 1}
    if scalars:
        for logger in trainer.loggers:
            logger.log_metrics({**scalars, "epoch": trainer.current_epoch}, step=state["log_step"])
    load_loader_states(trainer)  # which only a restart does
    end_restart(trainer)


def fingerprint(trainer: L.Trainer) -> str:
    """Return the fingerprint of the training rows; empty if the data module has none."""
    of_rows = getattr(getattr(trainer, "datamodule", None), "fingerprint", None)
    return "" if of_rows is None else str(of_rows())


def log_versions(trainer: L.Trainer) -> list[str | int | None]:
    """Return the version of each logger, which names the folder of a TensorBoard log; None for other loggers."""
    return [logger.version if isinstance(logger, TensorBoardLogger) else None for logger in trainer.loggers]


def resume_logs(trainer: L.Trainer, state: dict[str, Any]) -> None:
    """Let TensorBoard's logs continue as one curve; to be called before their first use.

    Points of steps that are repeated are marked as void.

    Args:
        trainer: The trainer of the resumed run.
        state: Result of :func:`run_state` in the interrupted run.
    """
    for logger, version in zip(trainer.loggers, state["log_versions"], strict=False):
        if isinstance(logger, TensorBoardLogger) and version is not None:
            resume_log(logger, version, state["void_from_step"])


def validation_is_due(trainer: L.Trainer) -> bool:
    """Return whether validation follows the current training batch; False if the clock decides."""
    every, interval = trainer.check_val_every_n_epoch, trainer.val_check_batch
    if not trainer.enable_validation or interval is None:
        return False
    if every is not None and (trainer.current_epoch + 1) % every:
        return False
    if interval == float("inf"):
        return bool(trainer.is_last_batch)
    loop = trainer.fit_loop
    done = (loop.batch_idx if every is not None else loop.total_batch_idx) + 1
    return done % int(interval) == 0


def recount_batches(trainer: L.Trainer, loops: dict[str, Any], state: dict[str, Any]) -> None:
    """Count micro-batches as the resumed run does, whose optimiser steps may be of another number of them.

    Under a ``GradientAccumulationScheduler`` steps have its numbers of them, and the trainer's is set only later.

    Args:
        trainer: The trainer of the resumed run.
        loops: ``loops`` of the checkpoint; changed in place.
        state: Result of :func:`run_state`, from the same checkpoint; those of earlier versions have settings only.
    """
    if accumulation_schedulers(trainer):
        return
    name = "accumulate_grad_batches"
    before = state.get(name, json.loads(state["settings"]).get(f"trainer.{name}"))
    if isinstance(before, int) and before > 0 and before != trainer.accumulate_grad_batches:
        rescale_batches(loops, before, trainer.accumulate_grad_batches)


def finish_batch(loops: dict[str, Any], state: dict[str, Any]) -> None:
    """Let a resumed run do what was to follow the batch after which its checkpoint was written.

    Lightning reads a checkpoint written at the end of a batch as if validation and the end of the epoch, where they
    were due, had already happened. This changes it into one written when validation was about to begin or, without
    validation, when the batch was over.

    Args:
        loops: ``loops`` of the checkpoint; changed in place.
        state: Result of :func:`run_state`, from the same checkpoint.
    """
    if not (state["validation_is_due"] or state["train_batch_is_last"]):
        return
    complete_batch(loops)
    if state["validation_is_due"]:
        request_validation(loops)
    else:
        count_step(loops)


def accumulation_schedulers(trainer: L.Trainer) -> list[GradientAccumulationScheduler]:
    """Return the callbacks that set ``accumulate_grad_batches`` as an epoch begins; the last one decides."""
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [callback for callback in callbacks if isinstance(callback, GradientAccumulationScheduler)]


def micro_batches_of_step(trainer: L.Trainer, epoch: int) -> int:
    """Return ``accumulate_grad_batches`` of an epoch, which may not have begun."""
    schedulers = accumulation_schedulers(trainer)
    return schedulers[-1].get_accumulate_grad_batches(epoch) if schedulers else trainer.accumulate_grad_batches


def _detached(metrics: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: torch.as_tensor(value).detach().cpu().clone() for name, value in metrics.items()}
