"""The corpus that a run writes with its own model before it learns from it."""

from pathlib import Path
from tempfile import TemporaryDirectory

import lightning as L

from dmaxlit.data.distill_settings import DistillSettings
from dmaxlit.data.training_corpus import distill_for_training
from dmaxlit.ranks import Ranks
from dmaxlit.tasks import Task


class DistilledCorpus:
    """A corpus that is written if it does not exist.

    A dry run (``fast_dev_run``) writes the answers to one batch of prompts to a temporary folder instead, and keeps all
    of them, so that it leaves nothing behind and works with an untrained model.

    Args:
        path: The corpus.
        task: The task whose training prompts are answered.
        settings: How.
        batch_size: Prompts that a dry run answers.
    """

    def __init__(self, path: str, task: Task, settings: DistillSettings, batch_size: int) -> None:
        self._path, self._task, self._settings, self._batch_size = path, task, settings, batch_size
        self._folder: TemporaryDirectory[str] | None = None

    def write(self, trainer: L.Trainer) -> None:
        """Write the corpus, unless it exists, in one process; nothing if several ranks will do so together.

        Args:
            trainer: The trainer, whose model is decoded on its device.

        Raises:
            UserError: If the model's weights are not there yet, or distilling fails.
        """
        path = Path(self._path)
        if not _is_dry_run(trainer):
            if trainer.world_size == 1:
                distill_for_training(trainer, self._task, path, self._settings)
        elif not path.exists():
            self._folder = TemporaryDirectory(prefix="dmaxlit-")
            few = self._settings.unfiltered(min(self._settings.num_prompts, self._batch_size))
            distill_for_training(trainer, self._task, Path(self._folder.name) / path.name, few, Ranks())

    def write_together(self, trainer: L.Trainer) -> None:
        """Write the corpus, unless it exists, on all of several ranks.

        Args:
            trainer: The trainer.

        Raises:
            UserError: As :meth:`write`.
        """
        if trainer.world_size > 1 and not _is_dry_run(trainer):
            distill_for_training(trainer, self._task, Path(self._path), self._settings)

    def path(self, trainer: L.Trainer | None) -> str:
        """Return where the corpus is: for all ranks, where rank zero has written it.

        Args:
            trainer: The trainer; all of its ranks call this.
        """
        folder = None
        if trainer is not None and _is_dry_run(trainer):
            folder = trainer.strategy.broadcast(None if self._folder is None else self._folder.name)
        return self._path if folder is None else str(Path(folder) / Path(self._path).name)

    def clean_up(self) -> None:
        """Remove the files of a dry run."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


def _is_dry_run(trainer: L.Trainer) -> bool:
    return bool(getattr(trainer, "fast_dev_run", False))
