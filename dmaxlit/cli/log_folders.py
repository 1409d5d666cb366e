"""The folders in which a command logs: each written by one process, and free of links."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from fnmatch import fnmatch
from functools import partial
from itertools import count
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn

from dmaxlit.checkpoints.lightning_internals import has_version, set_version
from dmaxlit.cli.run_config import RunConfigCallback, unwritable
from dmaxlit.errors import DMaxWarning
from dmaxlit.files import require_no_link, require_writable
from dmaxlit.locks import created_folder, exclusive, remove_abandoned

_ROOM = 2**15  # bytes: more than the configuration and the beginning of a log

# What Lightning and TensorBoard write there; they would follow a link.
_EVENT_FILES = "events.out.tfevents.*"
_CSV_FILE = "metrics.csv"
_LOG_FILES = ("hparams.yaml", _CSV_FILE, _EVENT_FILES)


@contextmanager
def log_folders(trainer: Trainer) -> Iterator[None]:
    """Keep other processes from the folders of the trainer's logs until the context ends; to be entered by rank zero.

    A log without a version gets a new folder, which no other command has at the same time: a run may be tested twice
    at once, and while it is trained. Folders that are empty at the end are removed, and what a run has written that
    ended before its first batch. The ``metrics.csv`` that stands in the folder of a log with a version, as when a run
    is resumed, becomes ``metrics.0.csv``, or the next free number. A log that cannot be written any more while a run
    trains, as on a full disk, ends with a warning.

    Args:
        trainer: The trainer, before its loggers are used.

    Raises:
        UserError: If a folder cannot be written, as on a full disk, if another process writes there, or if links stand
            under the names of files that are written into it.
    """
    with ExitStack() as stack:
        for logger in trainer.loggers:
            if isinstance(logger, (TensorBoardLogger, CSVLogger)) and "://" not in logger.root_dir:
                try:
                    if has_version(logger):
                        folder = _existing(logger)
                        stack.enter_context(created_folder(folder))
                    else:
                        folder = stack.enter_context(_new(logger))
                except OSError as error:
                    raise unwritable(Path(logger.log_dir), error) from error
                stack.enter_context(exclusive(folder, "trainer.logger"))
                if isinstance(logger, CSVLogger):
                    stack.enter_context(_keeping_rows(folder))
                stack.enter_context(_without_empty_log(folder, trainer))
                stack.enter_context(_outliving_full_disks(logger, trainer))
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, RunConfigCallback) and (config := callback.path(trainer)) is not None:
                try:
                    require_writable(config, _ROOM)
                except OSError as error:
                    raise unwritable(config, error) from error
        yield


@contextmanager
def _without_empty_log(folder: Path, trainer: Trainer) -> Iterator[None]:
    """After an error, remove what was begun there if it holds no points: at most settings, or the files of them."""
    before = set(folder.iterdir()) if folder.is_dir() else set()
    try:
        yield
    except BaseException:
        new = set(folder.iterdir()) - before if folder.is_dir() else set()
        fits = trainer.state.fn == TrainerFn.FITTING
        has_no_points = not fits and all(fnmatch(path.name, _EVENT_FILES) for path in new)
        if has_no_points or _is_before_training(trainer):
            for path in new:
                if not path.is_dir():  # of a callback
                    path.unlink()
        raise


def _is_before_training(trainer: Trainer) -> bool:
    """Return whether ``fit`` was called, and has not come to the first batch of a new run."""
    return trainer.state.fn == TrainerFn.FITTING and trainer.fit_loop.total_batch_idx < 0


@contextmanager
def _keeping_rows(folder: Path) -> Iterator[None]:
    """Give the rows of an earlier command another name: Lightning deletes them when it begins to write.

    They get their name back if no others were written.
    """
    rows = folder / _CSV_FILE
    if not rows.is_file():
        yield
        return
    kept = next(path for i in count() if not os.path.lexists(path := rows.with_suffix(f".{i}.csv")))
    try:
        rows.rename(kept)
    except OSError as error:
        raise unwritable(kept, error) from error
    try:
        yield
    finally:
        if not os.path.lexists(rows):
            kept.rename(rows)


@contextmanager
def _outliving_full_disks(logger: TensorBoardLogger | CSVLogger, trainer: Trainer) -> Iterator[None]:
    """Let a log end with a warning if it cannot be saved while a run trains; else let the error name its folder."""
    logger.save = partial(_save, logger, logger.save, trainer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        del logger.save  # the method of the class again


def _save(logger: TensorBoardLogger | CSVLogger, save: Callable[[], None], trainer: Trainer) -> None:
    try:
        save()
    except OSError as error:
        if trainer.state.fn != TrainerFn.FITTING or _is_before_training(trainer):
            raise unwritable(Path(logger.log_dir), error) from error
        reason = error.strerror or error
        rank_zero_warn(
            f"the log in {logger.log_dir!r} ends here, it cannot be written ({reason})", category=DMaxWarning
        )
        logger.save = _save_nothing  # type: ignore[method-assign]  # rows behind half a one could not be read


def _save_nothing() -> None:
    """Take the place of the method of a log that has ended."""


def _existing(logger: TensorBoardLogger | CSVLogger) -> Path:
    folder = Path(logger.log_dir)
    for path in folder.iterdir() if folder.is_dir() else ():
        if any(fnmatch(path.name, pattern) for pattern in _LOG_FILES):
            require_no_link(path)
    return folder


@contextmanager
def _new(logger: TensorBoardLogger | CSVLogger) -> Iterator[Path]:
    """Create the folder of the next version that no other process has created."""
    remove_abandoned(Path(logger.root_dir), "version_*")  # before the version is chosen
    with created_folder(Path(logger.log_dir).parent):
        while True:
            folder = Path(logger.log_dir)
            try:
                folder.mkdir()
                break
            except FileExistsError:
                set_version(logger, int(logger.version) + 1)
        try:
            yield folder
        finally:
            with suppress(OSError):
                folder.rmdir()
