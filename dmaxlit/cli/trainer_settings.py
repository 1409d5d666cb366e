"""Ranges of the trainer's settings that Lightning does not check, or only by a traceback in the midst of a run."""

from collections.abc import Mapping
from typing import Any

from jsonargparse import Namespace

from dmaxlit.errors import UserError, check_at_least, check_not_none, describe_value

#: The least value of each setting.
_LEAST = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "gradient_clip_val": 0,
    "limit_predict_batches": 0,
    "limit_test_batches": 0,
    "limit_train_batches": 0,
    "limit_val_batches": 0,
    "log_every_n_steps": 0,
    "max_epochs": -1,
    "max_steps": -1,
    "min_epochs": 0,
    "min_steps": 0,
    "num_nodes": 1,
    "num_sanity_val_steps": -1,
    "overfit_batches": 0,
    "reload_dataloaders_every_n_epochs": 0,
}
_SECTIONS = ("model", "data", "trainer", "checkpoint", "finite_guard")
_MAX_SEED = 2**32 - 1


def check_sections(settings: Mapping[str, Any]) -> None:
    """Refuse a section that is no mapping, such as null, which ``trainer:`` with nothing below it is.

    Args:
        settings: Settings of a command, or of a file of it, which may name another file instead.

    Raises:
        UserError: For the first.
    """
    for section in _SECTIONS:
        if section in settings and not isinstance(settings[section], (Mapping, Namespace, str)):
            raise UserError(f"{section}: expected a mapping of settings, got {_yaml(settings[section])}")


def _yaml(value: Any) -> str:
    return "null" if value is None else describe_value(value)


def check_trainer(settings: Mapping[str, Any]) -> None:
    """Refuse settings of the trainer, and a seed, outside of their ranges.

    Args:
        settings: Settings of a command: ``seed_everything`` and the mapping ``trainer``.

    Raises:
        UserError: For the first.
    """
    seed = settings.get("seed_everything")
    if seed is not None and not isinstance(seed, bool) and not 0 <= seed <= _MAX_SEED:
        raise UserError(f"seed_everything: expected an integer from 0 to {_MAX_SEED}, got {seed}")
    trainer = settings["trainer"]
    for name, least in _LEAST.items():
        check_at_least(least, **{f"trainer.{name}": trainer.get(name)})
    check_not_none(**{"trainer.accumulate_grad_batches": trainer["accumulate_grad_batches"]})
    interval = trainer.get("val_check_interval")
    if isinstance(interval, (int, float)) and not interval > 0:
        raise UserError(f"trainer.val_check_interval: expected a number above 0, got {interval}")
