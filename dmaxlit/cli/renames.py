"""Names in configurations and checkpoints of version 0.1, and the current ones. Read for one release."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

# Modules whose classes a configuration can name, and classes of modules that remain.
_MOVED = {
    "dmaxlit.checkpoint_io": "dmaxlit.checkpoints.atomic_io",
    "dmaxlit.data.corpus": "dmaxlit.data.datamodule",
    "dmaxlit.data.tasks": "dmaxlit.tasks",
    "dmaxlit.data.tasks.chain": "dmaxlit.tasks.chain",
    "dmaxlit.data.tasks.jsonl": "dmaxlit.tasks.jsonl",
    "dmaxlit.data.tasks.reasoning_gym": "dmaxlit.tasks.reasoning_gym",
    "dmaxlit.lr_schedules": "dmaxlit.training.lr_schedules",
    "dmaxlit.noise.RolloutKNoise": "dmaxlit.noise.experimental.RolloutKNoise",
    "dmaxlit.noise.SoftOnPolicyNoise": "dmaxlit.noise.experimental.SoftOnPolicyNoise",
    "dmaxlit.noise.rollout_k": "dmaxlit.noise.experimental.rollout_k",
    "dmaxlit.noise.soft_on_policy": "dmaxlit.noise.experimental.soft_on_policy",
    "dmaxlit.optim": "dmaxlit.training.muon",
    "dmaxlit.schedules": "dmaxlit.noise.schedules",
    "dmaxlit.strategy": "dmaxlit.training.fsdp",
}
# By name of the class.
_RENAMED_OPTIONS = {
    "RolloutKNoise": {"truth": "clean_fraction"},
    "SoftOnPolicyNoise": {"truth": "clean_fraction"},
}
# Settings that 0.1 did not have, with the values at which they mean what it did.
_ADDED_SETTINGS = {
    "data.group_by_length": False,
    "data.streaming": False,
    "data.turns": "last",
    "model.frozen_copy": "device",
    "objective": "views",
}


def current_path(path: str) -> str:
    """Return the current import path of a class from that in 0.1; any other text is returned unchanged."""
    module, _, name = path.rpartition(".")
    if not name[:1].isupper() or not (path in _MOVED or module in _MOVED):
        return path
    new = _MOVED.get(path) or f"{_MOVED[module]}.{name}"
    announce(path, new)
    return new


def current_paths(settings: Any) -> Any:
    """Return settings with :func:`current_path` for each text among their values."""
    if isinstance(settings, dict):
        return {name: current_paths(value) for name, value in settings.items()}
    if isinstance(settings, list):
        return [current_paths(value) for value in settings]
    return current_path(settings) if isinstance(settings, str) else settings


def current_args(args: Sequence[str]) -> list[str]:
    """Return command-line arguments with :func:`current_path` for each ``VALUE`` and ``--flag=VALUE``."""
    split = [arg.rpartition("=") for arg in args]
    return [f"{flag}{equals}{current_path(value)}" for flag, equals, value in split]


def current_flags(args: Sequence[str], renamed: Mapping[str, str]) -> list[str]:
    """Return command-line arguments with flags under their current names.

    Args:
        args: Arguments of a command.
        renamed: Current names of the command's flags by their old ones.
    """
    current = []
    for arg in args:
        flag, equals, value = arg.partition("=")
        if new := renamed.get(flag):
            announce(flag, new)
        current.append(f"{new or flag}{equals}{value}")
    return current


def renamed_option(path: str, option: str) -> str | None:
    """Return what an option of a class is called now, or None if it has not been renamed."""
    ours = path.startswith("dmaxlit.")
    return _RENAMED_OPTIONS.get(path.rpartition(".")[2], {}).get(option) if ours else None


def current_options(path: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a class under their current names.

    Args:
        path: Import path of the class.
        options: Its options.
    """
    current = {}
    for option, value in options.items():
        new = renamed_option(path, option)
        if new is not None:
            announce(f"option {option} of {path}", new)
        current[new or option] = value
    return current


def current_settings(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's stored settings, under dotted names, as the same run would store them now."""
    from dmaxlit.data.distill_settings import UNNAMED  # imports torch, which not every command needs

    settings = current_paths(dict(stored))
    current = {}
    for name, value in settings.items():
        parent, _, option = name.rpartition(".")
        path = settings.get(f"{parent}.class_path")
        new = renamed_option(path, option) if isinstance(path, str) else None
        current[f"{parent}.{new}" if new else name] = value
    parents = {name.rpartition(".")[0] for name in current}
    of_distill = {f"data.distill.{name}": value for name, value in UNNAMED.items()}
    added = {
        name: value for name, value in (_ADDED_SETTINGS | of_distill).items() if name.rpartition(".")[0] in parents
    }
    return {**added, **current}


@cache
def announce(old: str, new: str) -> None:
    """Say once, on rank zero, that a name is read for the last time."""
    from lightning.pytorch.utilities import rank_zero_info

    rank_zero_info(f"{old} is now {new}; the old name is read for this release only")
