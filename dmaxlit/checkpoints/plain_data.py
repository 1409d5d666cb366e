"""Keeping checkpoints plain data: whatever route Lightning takes to one, nothing pickled in it is executed.

Lightning reads local files with ``weights_only``, but not remote ones, those that FSDP reads lazily, or the folders of
other sharding strategies. All of them pass through ``Strategy.load_checkpoint``, which is guarded here.
"""

import pickle
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch
from lightning.pytorch.strategies import Strategy
from torch.serialization import get_unsafe_globals_in_checkpoint

from dmaxlit.errors import UserError


def require_local(path: str | Path) -> None:
    """Refuse a checkpoint that is not a path of this machine's file system.

    Raises:
        UserError: If it is a URL, a path of another file system, or the name of a model in a registry.
    """
    text = str(path)
    if "://" in text or "::" in text or text.partition(":")[0].lower() == "registry":
        raise UserError(f"ckpt_path: expected a local file or folder, got {text!r}; download it first")


def load_plain(path: str | Path, **options: Any) -> dict[str, Any]:
    """Read a local checkpoint file that holds nothing but plain data and tensors.

    Args:
        path: The file.
        **options: Of ``torch.load``.

    Raises:
        UserError: If it is not local, cannot be read, or holds anything else.
    """
    require_local(path)
    try:
        content: dict[str, Any] = torch.load(path, weights_only=True, **options)
    except pickle.UnpicklingError as error:
        raise UserError(f"checkpoint: expected plain data and tensors in {str(path)!r}, got other objects") from error
    except (RuntimeError, EOFError, OSError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(f"checkpoint: {str(path)!r} cannot be read ({reason})") from error
    return content


def refuse_other_objects(file: str | Path | IO[bytes], path: str | Path) -> None:
    """Refuse a checkpoint that was just written and that :func:`load_plain` would not read.

    Args:
        file: The checkpoint's file as ``torch.save`` wrote it.
        path: Its name, for the message.

    Raises:
        UserError: If it holds more than plain data and tensors.
    """
    if others := get_unsafe_globals_in_checkpoint(file):
        raise UserError(
            f"checkpoint: expected plain data and tensors to write to {str(path)!r}, as nothing else is read, got "
            f"{', '.join(sorted(others))}; what state_dict() of a callback or schedule returns is stored"
        )


def guard_strategy(strategy: Strategy, reads_folders: bool) -> None:
    """Let a strategy load checkpoints only from local paths and with ``weights_only``, whatever it is told.

    Args:
        strategy: The trainer's strategy; changed in place.
        reads_folders: Whether it reads sharded checkpoints without executing anything in them.
    """
    # By the class, so that launchers can still pickle the strategy.
    strategy.load_checkpoint = partial(_guarded_load, strategy, reads_folders)  # type: ignore[method-assign]


def _guarded_load(
    strategy: Strategy, reads_folders: bool, checkpoint_path: str | Path, weights_only: bool | None = None
) -> dict[str, Any]:
    require_local(checkpoint_path)
    cls = type(strategy)
    if Path(checkpoint_path).is_dir():
        if not reads_folders:
            raise UserError(
                f"ckpt_path: expected a file, got the folder {str(checkpoint_path)!r}; {cls.__name__} may run code "
                "in it, FSDP2Strategy reads it"
            )
    elif cls.load_checkpoint is not Strategy.load_checkpoint:
        load_plain(checkpoint_path, map_location="meta", mmap=True)  # FSDPStrategy unpickles by itself
    return cls.load_checkpoint(strategy, checkpoint_path, weights_only=True)
