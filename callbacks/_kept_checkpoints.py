"""Which checkpoints of a run are kept: the last, the one before it, and the best."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import lightning as L

from dmaxlit.callbacks._best_checkpoint import BestCheckpoint
from dmaxlit.callbacks._checkpoint_writing import CheckpointWriter, Writing
from dmaxlit.callbacks._run_stops import leave
from dmaxlit.checkpoints.run_folder import RunFolder
from dmaxlit.errors import UserError
from dmaxlit.files import remove_unfinished
from dmaxlit.locks import exclusive_folder


class KeptCheckpoints:
    """Writes them to the run's folder, and knows which of them is the last.

    Args:
        best: The rule for the best one.
    """

    def __init__(self, best: BestCheckpoint) -> None:
        self.best = best
        self.saved_step: int | None = None
        self.last: Path | None = None
        self._writer = CheckpointWriter()
        self._lock = ExitStack()

    def begin(self) -> None:
        """Forget those of an earlier use of the trainer."""
        self.saved_step, self.last = None, None
        self._writer = CheckpointWriter()

    def resume_from(self, path: Path, step: int) -> None:
        """Take a checkpoint that was read for the last one."""
        self.saved_step, self.last = step, path

    def lock(self, files: RunFolder) -> None:
        """Keep others from the folder, and remove unfinished files of processes that were killed.

        Raises:
            UserError: If another process uses it.
        """
        self._lock.enter_context(exclusive_folder(files.path, "checkpoint"))
        remove_unfinished(files.path)

    def unlock(self) -> None:
        """Let others use the folder."""
        self._lock.close()

    @property
    def is_writing(self) -> bool:
        """Whether a checkpoint has yet to get its name."""
        return self._writer.is_writing

    def is_written(self, trainer: L.Trainer) -> bool:
        """Return whether the checkpoint that is being written is whole; it is known on rank zero."""
        return self._writer.is_written(trainer)

    def save(self, trainer: L.Trainer, files: RunFolder, wait: bool) -> None:
        """Write the last checkpoint, on all ranks together.

        Args:
            trainer: The trainer.
            files: The run's folder.
            wait: Whether to wait until it is whole, where the strategy could write it while training goes on.

        Raises:
            UserError: If it cannot be written; the last one is not touched then.
        """
        step = trainer.global_step

        def done() -> None:
            self.saved_step, self.last = step, files.last

        self._write(trainer, files.next, lambda: files.promote(self.last), done, wait)

    def save_best(self, trainer: L.Trainer, files: RunFolder) -> None:
        """Write the best checkpoint if this is the best state so far, on all ranks together.

        Raises:
            UserError: If the metric is not logged, or it cannot be written.
        """
        try:
            self.best.keep(trainer, files, self._write)
        except UserError as error:
            leave(trainer, error)

    def _write(
        self,
        trainer: L.Trainer,
        path: Path,
        rename: Callable[[], None],
        done: Callable[[], None] = lambda: None,
        wait: bool = False,
    ) -> None:
        writing = Writing(path, rename, done, lambda: f"the last one written is {self.where()}")
        if failure := self._writer.write(trainer, writing, wait):
            leave(trainer, UserError(failure))

    def finish_save(self, trainer: L.Trainer) -> None:
        """Wait until the checkpoint that is being written, if any, is whole; every rank must call it.

        Raises:
            UserError: If it cannot be written.
        """
        if failure := self._writer.finish(trainer):
            leave(trainer, UserError(failure))

    def promote_origin(self, trainer: L.Trainer, files: RunFolder) -> None:
        """Give the checkpoint resumed from its name, if its process was killed before it could."""
        if self.last == files.next:
            if trainer.is_global_zero:
                files.promote(files.last)
            self.last = files.last

    def where(self) -> str:
        """Describe the last checkpoint written or read, for messages."""
        return "none" if self.saved_step is None else f"{self.last} of step {self.saved_step}"
