"""Whether a run is long enough to reach its first validation."""

import math

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn

from dmaxlit.checkpoints.run_state import accumulation_schedulers, micro_batches_of_step
from dmaxlit.errors import DMaxWarning


def batches_to_validation(trainer: L.Trainer) -> float:
    """Return the number of training batches before the first validation; 0 if the clock decides, or there is none.

    To be called when the trainer has its loaders.
    """
    every, interval, per_epoch = trainer.check_val_every_n_epoch, trainer.val_check_batch, trainer.num_training_batches
    if not trainer.enable_validation or interval is None:
        return 0
    if every is None:
        return interval
    return (every - 1) * per_epoch + min(interval, per_epoch) if every > 1 else min(interval, per_epoch)


def has_validation(trainer: L.Trainer) -> bool:
    """Return whether a run validates anything, as far as is known when training starts."""
    batches = trainer.num_val_batches  # empty until the loaders are made
    return trainer.enable_validation and trainer.val_dataloaders != [] and (not batches or any(batches))


def warn_of_late_validation(trainer: L.Trainer, source: str, consequence: str) -> None:
    """Warn, when training starts, if a run ends before its first validation, or may.

    Args:
        trainer: The trainer.
        source: Who needs the validation, for the message.
        consequence: What the run then does.
    """
    first, length = batches_to_validation(trainer), batches_of_run(trainer)
    if math.isinf(first):
        rank_zero_warn(
            f"{source}: validation follows a whole epoch, whose number of batches a stream does not tell; set "
            "--trainer.val_check_interval to a number of batches",
            category=DMaxWarning,
        )
    elif length < first:
        rank_zero_warn(
            f"{source}: the run ends after {length} training batches, before the first validation after {first}, and "
            f"{consequence}; set --trainer.val_check_interval, or train for longer",
            category=DMaxWarning,
        )


def batches_of_run(trainer: L.Trainer) -> float:
    """Return the number of training batches to ``max_steps`` or ``max_epochs``; infinity without a limit."""
    per_epoch = trainer.num_training_batches
    lengths = [math.inf]
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        lengths.append(trainer.max_epochs * per_epoch)
    if trainer.max_steps > 0:
        schedulers = accumulation_schedulers(trainer)
        last_change = max(schedulers[-1].epochs) if schedulers else 0
        left, epoch, batches = trainer.max_steps, 0, 0
        while left > 0:
            accumulated = micro_batches_of_step(trainer, epoch)
            steps = math.ceil(min(left, per_epoch / accumulated))  # an epoch ends with a step
            alike = left // steps if epoch >= last_change else 1  # epochs
            batches += alike * int(min(steps * accumulated, per_epoch))
            left -= alike * steps
            epoch += alike
        lengths.append(batches)
    return min(lengths)
