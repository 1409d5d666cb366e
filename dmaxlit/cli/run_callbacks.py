"""The callbacks that every run has, and where checkpoints of a run go."""

from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.utilities import rank_zero_warn

from dmaxlit.callbacks import HyperparameterLog, RankGuard, RunCheckpoint, RunProgressBar
from dmaxlit.errors import DMaxWarning, UserError


def default_callbacks(settings: Namespace) -> list[Callback]:
    """Return the callbacks of a run beside those that its settings list.

    These are a :class:`~dmaxlit.callbacks.RunCheckpoint` and a progress bar, unless they are switched off, as by
    ``barebones``, a :class:`~dmaxlit.callbacks.FiniteGuard`, a :class:`~dmaxlit.callbacks.HyperparameterLog` and a
    :class:`~dmaxlit.callbacks.RankGuard`.

    Args:
        settings: Settings of a command, with their classes made.
    """
    defaults = [settings[name] for name in ("checkpoint", "finite_guard")]
    trainer = settings.trainer
    is_bare = bool(trainer.barebones)
    if trainer.enable_checkpointing is False or is_bare:
        defaults = defaults[1:]
    callbacks = trainer.callbacks or []
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    has_bar = any(isinstance(callback, ProgressBar) for callback in callbacks)
    if not has_bar and trainer.enable_progress_bar is not False and not is_bare:
        defaults.append(RunProgressBar())
    return [*defaults, HyperparameterLog(), RankGuard()]


def run_checkpoints_of(trainer: Trainer) -> list[RunCheckpoint]:
    """Return the callbacks of a trainer that keep a run's last checkpoint."""
    return [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, RunCheckpoint)]


def direct_checkpoints(trainer: Any, root: str | Path | None) -> None:
    """Direct checkpoints to ``checkpoints/`` in ``default_root_dir``, if that is set; none are written in a dry run.

    Lightning would write them to the numbered folder of the run's logs, where the next command could not find them; and
    with ``fast_dev_run`` it leaves ``last.ckpt`` behind, though it says that checkpoints are suppressed.

    Raises:
        UserError: If another callback would write a file that is the run's own.
    """
    for callback in trainer.checkpoint_callbacks:
        if trainer.fast_dev_run:
            trainer.callbacks.remove(callback)
        elif root is None:
            continue
        elif isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            callback.dirpath = str(Path(root) / "checkpoints")
        elif isinstance(callback, RunCheckpoint) and callback.folder is None:
            callback.folder = str(Path(root) / "checkpoints")
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint):
            _keep_apart(callback, run_checkpoints_of(trainer))


def _keep_apart(callback: ModelCheckpoint, run_checkpoints: list[RunCheckpoint]) -> None:
    """Let no other callback write a file that is the run's own, in the folder of the run's checkpoints.

    Raises:
        UserError: If its ``filename`` is the name of one.
    """
    for own in run_checkpoints:
        if not own.folder or not callback.dirpath or Path(own.folder).resolve() != Path(callback.dirpath).resolve():
            continue
        names = {"last", "previous"} | ({"best"} if own.monitor is not None else set())
        if callback.filename in names:
            raise UserError(
                f"trainer.callbacks: ModelCheckpoint.filename: expected none of the run's own, such as last, in "
                f"{str(own.folder)!r}, got {callback.filename!r}; another dirpath keeps them apart"
            )
        if callback.save_last:
            callback.save_last = False
            rank_zero_warn(
                "trainer.callbacks: ModelCheckpoint.save_last is left out, as last.ckpt is the run's own; "
                "another dirpath has one of its own",
                category=DMaxWarning,
            )
