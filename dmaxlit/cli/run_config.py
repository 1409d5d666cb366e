"""Saves the configuration of a run next to its logs."""

from pathlib import Path

import lightning as L
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn

from dmaxlit.callbacks._display import folder_of_run
from dmaxlit.errors import UserError
from dmaxlit.files import write_text


class RunConfigCallback(SaveConfigCallback):
    """Writes ``config.yaml`` in one step: on a full disk there is none, or the old one, and a link is not followed.

    Raises:
        UserError: In ``setup``, if it cannot be written.
    """

    def path(self, trainer: L.Trainer) -> Path | None:
        """Return where it is written; None if it is not, or if Lightning writes it to a remote folder.

        It is written to the folder of a log of TensorBoard or CSV, which is this command's own, or else to that of the
        run: never to the current folder, nor over a file that the command was given by ``--config`` or, by another
        command, over that of training. Every rank must call it.
        """
        folder: str | Path | None = trainer.log_dir
        self.save_to_log_dir = "://" in str(folder)
        is_shared = not self.save_to_log_dir and not _has_own_folder(trainer)
        if is_shared:
            folder = folder_of_run(trainer)
        if self.save_to_log_dir or folder is None:
            return None
        path = Path(folder) / self.config_filename
        given = [Path(file).resolve() for file in self.config.get("config") or ()]
        is_of_training = is_shared and trainer.state.fn != TrainerFn.FITTING and path.exists()
        return None if is_of_training or path.resolve() in given else path

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write it once, on rank zero; remote folders are left to Lightning."""
        self._path = self.path(trainer)
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write it; called on rank zero."""
        if self._path is None:
            return
        try:
            # The settings were checked.
            write_text(self._path, self.parser.dump(self.config, skip_none=False, skip_validation=True))
        except OSError as error:
            raise unwritable(self._path, error) from error


def unwritable(path: Path, error: OSError) -> UserError:
    """Return the refusal of a file or folder in a run's folder of logs that cannot be written."""
    return UserError(f"trainer.default_root_dir: cannot write {str(path)!r} ({error.strerror or error})")


def _has_own_folder(trainer: L.Trainer) -> bool:
    """Return whether ``log_dir`` is a folder of one command; other loggers' is that of all runs, or none."""
    return bool(trainer.loggers) and isinstance(trainer.loggers[0], (TensorBoardLogger, CSVLogger))
