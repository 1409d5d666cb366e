"""Everything dmaxlit uses of Lightning beyond its documented interface, in one place.

Each function names what it relies on. ``tests/checkpoints/test_lightning_internals.py`` has a test for each, so that a
release that changes one of them says what to mend.
"""

import signal
from typing import Any

import lightning as L
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.strategies import ModelParallelStrategy

SHARDED_REST_FILE = "meta.pt"
"""File of a sharded checkpoint with everything but tensors; ``ModelParallelStrategy`` writes it under this name."""


# ---- trainer and loops ----------------------------------------------------------------------------------------------


def requeue_signal(trainer: L.Trainer) -> signal.Signals | None:
    """Return the signal after which a run under SLURM saves and is requeued; None if it is not.

    Relies on ``trainer._accelerator_connector.cluster_environment``; a strategy of one process has none of its own.
    """
    environment = trainer._accelerator_connector.cluster_environment
    if not isinstance(environment, SLURMEnvironment) or not environment.auto_requeue:
        return None
    return environment.requeue_signal


def log_step(trainer: L.Trainer) -> int:
    """Return the step under which Lightning logs the current batch.

    Relies on ``trainer.fit_loop.epoch_loop._batches_that_stepped``.
    """
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped)


def step_metrics(trainer: L.Trainer) -> dict[str, Any]:
    """Return the metrics of the current step that are about to be passed to loggers.

    Relies on ``trainer._logger_connector.metrics["log"]``.
    """
    metrics: dict[str, Any] = trainer._logger_connector.metrics["log"]
    return metrics


def load_loader_states(trainer: L.Trainer) -> None:
    """Give the training loader the state that a checkpoint has of it, if it has not got it yet.

    Lightning does so where it makes the loader, which is too early if the number of steps was asked for before the
    checkpoint's loops were read: the loader then begins the epoch again.

    Relies on ``trainer.fit_loop._load_combined_loader_states()``, which does nothing if it was called before.
    """
    trainer.fit_loop._load_combined_loader_states()


def end_restart(trainer: L.Trainer) -> None:
    """Let the rest of the first epoch after a restart be an ordinary one.

    Lightning takes the whole of it for a restart, and skips schedules that monitor a metric at its end.
    Relies on ``trainer.fit_loop._restarting``.
    """
    trainer.fit_loop._restarting = False


def stops_early(trainer: L.Trainer) -> bool:
    """Return whether training ends, once the current batch is over, because ``should_stop`` is set.

    Relies on ``trainer.fit_loop._can_stop_early``, which is False before ``min_steps`` and ``min_epochs``.
    """
    return bool(trainer.should_stop and trainer.fit_loop._can_stop_early)


def validate_after_last_step(trainer: L.Trainer) -> None:
    """Validate as after a training step, though training does not run: the last step was made by another process.

    Relies on ``trainer.fit_loop.epoch_loop.val_loop``, and on ``trainer.validating``, by which loops are told apart.
    """
    trainer.validating = True
    trainer.fit_loop.epoch_loop.val_loop.run()
    trainer.training = True


def epochs_begun(loops: dict[str, Any]) -> int:
    """Return the number of epochs that the run of a checkpoint has begun.

    Relies on ``checkpoint["loops"]["fit_loop"]["epoch_progress"]``.

    Args:
        loops: ``loops`` of the checkpoint.
    """
    return int(loops["fit_loop"]["epoch_progress"]["current"]["started"])


def complete_batch(loops: dict[str, Any]) -> None:
    """Count the last training batch of a checkpoint as completed, so that it is not skipped as unfinished.

    Relies on ``checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]``.

    Args:
        loops: ``loops`` of the checkpoint; changed in place.
    """
    progress = loops["fit_loop"]["epoch_loop.batch_progress"]
    for counts in (progress["total"], progress["current"]):
        counts["completed"] = counts["processed"]


def request_validation(loops: dict[str, Any]) -> None:
    """Let a resumed run begin with validation from its first batch.

    Relies on ``checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]``.

    Args:
        loops: ``loops`` of the checkpoint; changed in place.
    """
    progress = loops["fit_loop"]["epoch_loop.val_loop.batch_progress"]
    done = progress["total"]["completed"]
    progress["total"].update(ready=done + 1, started=done + 1, processed=done)
    progress["current"].update(ready=0, started=0, processed=0, completed=0)
    progress["is_last_batch"] = False


def count_step(loops: dict[str, Any]) -> None:
    """Count the checkpoint's last batch as one that stepped, as Lightning does after the hook that wrote it.

    Relies on ``checkpoint["loops"]["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"]``.

    Args:
        loops: ``loops`` of the checkpoint; changed in place.
    """
    loops["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"] += 1


def rescale_batches(loops: dict[str, Any], before: int, after: int) -> None:
    """Count the batches of a checkpoint, written after an optimiser step, as if steps had other numbers of them.

    Relies on ``checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]``.

    Args:
        loops: ``loops`` of the checkpoint; changed in place.
        before: Micro-batches of a step in the checkpoint's run.
        after: Micro-batches of a step from here on.
    """
    progress = loops["fit_loop"]["epoch_loop.batch_progress"]
    total, current = progress["total"], progress["current"]
    earlier = (total["processed"] - current["processed"]) * after // before
    in_epoch = -(-current["processed"] // before) * after  # the last step of an epoch may have had fewer
    for counts, processed in ((total, earlier + in_epoch), (current, in_epoch)):
        unfinished = counts["processed"] - counts["completed"]
        counts.update(ready=processed, started=processed, processed=processed, completed=processed - unfinished)


def reopen_epoch(loops: dict[str, Any]) -> None:
    """Let a checkpoint, written when an epoch that was cut short had been closed, be one from within the epoch.

    Relies on ``checkpoint["loops"]["fit_loop"]["epoch_progress"]``.

    Args:
        loops: ``loops`` of the checkpoint; changed in place.
    """
    progress = loops["fit_loop"]["epoch_progress"]
    for counts in (progress["total"], progress["current"]):
        counts["processed"] = counts["completed"] = counts["started"] - 1


# ---- loggers --------------------------------------------------------------------------------------------------------


def resume_log(logger: TensorBoardLogger, version: str | int, purge_step: int) -> None:
    """Let a logger append to an earlier log, whose points from a step on are void; before its first use.

    Relies on ``logger._version``, None until a version is chosen, and on ``logger._kwargs``, which are passed to the
    ``SummaryWriter``.

    Args:
        logger: The logger.
        version: Version of the earlier log; ignored if the logger was made for one.
        purge_step: First step whose points are void.
    """
    logger._version = version if logger._version is None else logger._version
    logger._kwargs["purge_step"] = purge_step


def has_version(logger: TensorBoardLogger | CSVLogger) -> bool:
    """Return whether the version of a log, which names its folder, is chosen.

    Relies on ``logger._version``, None until then.
    """
    return logger._version is not None


def set_version(logger: TensorBoardLogger | CSVLogger, version: int) -> None:
    """Choose the version of a log, before its first use.

    Relies on ``logger._version``.
    """
    logger._version = version


def is_unknown_monitor(error: Exception) -> bool:
    """Return whether ``EarlyStopping`` does not know the metric that it monitors; the text then lists those there are.

    Relies on the beginning of the text of a ``RuntimeError``.
    """
    return isinstance(error, RuntimeError) and str(error).startswith("Early stopping conditioned on metric")


# ---- callbacks ------------------------------------------------------------------------------------------------------


def ends_after_search(callback: BatchSizeFinder | LearningRateFinder) -> bool:
    """Return whether a callback searches for ``Tuner``, without training afterwards.

    Relies on ``callback._early_exit``.
    """
    return callback._early_exit


# ---- module and strategy --------------------------------------------------------------------------------------------


def is_attached(module: L.LightningModule) -> bool:
    """Return whether a module has a trainer; ``module.trainer`` raises where it has none.

    Relies on ``module._trainer``.
    """
    return module._trainer is not None


def main_address(strategy: Any) -> str:
    """Return the host name of rank zero, as the other ranks reach it.

    Relies on ``strategy.cluster_environment.main_address``.
    """
    return str(strategy.cluster_environment.main_address)


def share_among_all(strategy: ModelParallelStrategy) -> None:
    """Let all processes of a strategy share the model; to be called before its environment is set up.

    Relies on ``strategy._data_parallel_size`` and ``strategy._tensor_parallel_size``.
    """
    strategy._data_parallel_size, strategy._tensor_parallel_size = strategy.num_nodes * strategy.num_processes, 1
