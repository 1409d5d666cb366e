"""The rows of an optimiser step, which a run keeps whatever its ranks, batch size and accumulation."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer

STEP_ROWS = "rows of an optimiser step"
BATCH_ROWS = "batch_size over all ranks"
STEP_BATCHES = "micro-batches of an optimiser step"  # in place of its rows, where max_tokens decides on these
_GROUPS = "data.group_by_length"
_ACCUMULATE = "trainer.accumulate_grad_batches"
_BATCH_LIMITS = ("limit_train_batches", "overfit_batches")  # numbers of micro-batches, or shares of an epoch's


def step_rows(
    of_batch: int, accumulate: int, trainer_settings: Mapping[str, Any], group_by_length: bool = False
) -> dict[str, int]:
    """Return the settings that stand for batch size and accumulation among those of a run.

    Args:
        of_batch: Rows of a micro-batch over all ranks.
        accumulate: Micro-batches of an optimiser step.
        trainer_settings: Settings of the trainer. Where they limit the number of batches, the rows of one are fixed.
        group_by_length: Whether the order of the rows depends on those of a micro-batch, which are fixed then.
    """
    is_fixed = group_by_length or _limits_batches(trainer_settings)
    return {STEP_ROWS: of_batch * accumulate, **({BATCH_ROWS: of_batch} if is_fixed else {})}


def step_batches(batch_size: int, ranks: int, accumulate: int, trainer_settings: Mapping[str, Any]) -> dict[str, int]:
    """Return the settings that stand for batch size and accumulation where ``max_tokens`` makes the batches.

    Args:
        batch_size: Most rows of a micro-batch.
        ranks: Number of ranks.
        accumulate: Micro-batches of an optimiser step on a rank.
        trainer_settings: Settings of the trainer. Where they limit the number of batches, that of ranks is fixed.
    """
    fixed = {STEP_BATCHES: ranks * accumulate, "most rows of a micro-batch": batch_size}
    return {**fixed, **({"number of ranks": ranks} if _limits_batches(trainer_settings) else {})}


def _limits_batches(trainer_settings: Mapping[str, Any]) -> bool:
    """Return whether only some micro-batches of an epoch are used: a number of them, or a share below 1.0."""
    limits = [trainer_settings.get(name) for name in _BATCH_LIMITS]
    return any(limit > 0 if isinstance(limit, int) else isinstance(limit, float) and 0 < limit < 1 for limit in limits)


def current_step_rows(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stored settings of a run; earlier versions stored batch size and accumulation apart."""
    settings = dict(stored)
    of_batch, accumulate = settings.get(BATCH_ROWS), settings.get(_ACCUMULATE)
    if STEP_ROWS in settings or not isinstance(of_batch, int) or not isinstance(accumulate, int):
        return settings
    del settings[BATCH_ROWS], settings[_ACCUMULATE]
    trainer = {name.removeprefix("trainer."): value for name, value in settings.items()}
    return settings | step_rows(of_batch, accumulate, trainer, bool(settings.get(_GROUPS)))


def with_as_many_rows(name: str, stored: Mapping[str, Any], current: Mapping[str, Any], trainer: Trainer) -> str:
    """Return the options that give a step, and where it is fixed a micro-batch, the rows of the stored run.

    They are for a message that goes on with "another ...".

    Args:
        name: The setting that differs.
        stored: Settings of the stored run.
        current: Settings of this run.
        trainer: This run's trainer.

    Returns:
        An empty text if another setting differs, or the number of ranks does not divide the rows.
    """
    batches = stored.get(STEP_BATCHES)
    if name == STEP_BATCHES and isinstance(batches, int) and batches % trainer.world_size == 0:
        return f"--{_ACCUMULATE} {batches // trainer.world_size} to go on, "
    rows, fixed = stored.get(STEP_ROWS), stored.get(BATCH_ROWS)
    if name not in (STEP_ROWS, BATCH_ROWS) or not isinstance(rows, int) or rows % trainer.world_size:
        return ""
    if isinstance(fixed, int) and fixed > 0:
        options = f"--data.batch_size {fixed // trainer.world_size} --{_ACCUMULATE} {rows // fixed} to go on, "
        return "" if fixed % trainer.world_size else options
    of_batch = current[STEP_ROWS] // trainer.accumulate_grad_batches
    if rows % of_batch == 0:
        return f"--{_ACCUMULATE} {rows // of_batch} to go on, "
    return f"--data.batch_size {rows // trainer.world_size} --{_ACCUMULATE} 1 to go on, "
