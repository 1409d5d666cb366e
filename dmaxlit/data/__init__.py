"""Training corpora: read from files or the hub, or written by the model itself, and made into batches."""

import warnings
from importlib import import_module
from typing import Any

from dmaxlit.data.datamodule import SelfDistilledDataModule
from dmaxlit.data.distill_settings import DistillSettings

__all__ = ["DistillSettings", "SelfDistilledDataModule"]

_MOVED = {"TASKS", "Example", "Task", "task", "tasks"}  # until 0.3


def __getattr__(name: str) -> Any:
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    tasks = import_module("dmaxlit.tasks")
    replacement = "dmaxlit.tasks" if name == "tasks" else f"dmaxlit.tasks.{name}"
    warnings.warn(f"dmaxlit.data.{name} is now {replacement}", DeprecationWarning, stacklevel=2)
    return tasks if name == "tasks" else getattr(tasks, name)
