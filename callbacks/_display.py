"""Where a run's files go, and progress bars in the terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar

from dmaxlit.bars import make_bar


def folder_of_run(trainer: L.Trainer) -> Path | None:
    """Return the folder for a run's files: ``default_root_dir`` if it is set, or else that of the logs.

    It is None without such a folder, or if it is an address such as ``s3://...``. Nothing is written into the current
    folder unasked, which is the trainer's default. Every rank must call it.
    """
    root, logs = trainer.default_root_dir, trainer.log_dir  # which ranks agree on
    folder = root if "://" in root or Path(root).resolve() != Path.cwd() else logs
    if folder is None or "://" in folder or Path(folder).resolve() == Path.cwd():
        return None
    return Path(folder)


@contextmanager
def progress_bar(trainer: L.Trainer, total: int, description: str) -> Iterator[Callable[[int], object]]:
    """Show a progress bar for long work between the trainer's loops.

    It is drawn on rank zero, unless the trainer has no progress bar. While the trainer's Rich bars are on the screen,
    it is added to them, because Rich allows one live display at a time.

    Args:
        trainer: The trainer.
        total: Prompts to decode.
        description: Text in front of the bar.

    Yields:
        The function that advances the bar by a number of prompts.
    """
    trainer_bar: Any = trainer.progress_bar_callback
    live = trainer_bar.progress if isinstance(trainer_bar, RichProgressBar) else None
    if live is not None and live.live.is_started:
        task = live.add_task(description, total=total)
        try:
            yield lambda count: live.advance(task, count)
        finally:
            live.update(task, visible=False)
        return
    hidden = trainer_bar is None or not trainer.is_global_zero
    with make_bar(total=total, desc=description, unit="prompt", leave=False, disable=hidden) as bar:
        yield bar.update
