"""Saves the configuration of a run next to its logs."""

from pathlib import Path

import lightning as L
from lightning.pytorch.cli import SaveConfigCallback

from dmaxlit.cli.log_folders import unwritable
from dmaxlit.files import write_text


class RunConfigCallback(SaveConfigCallback):
    """Writes ``config.yaml`` in one step: on a full disk there is none, or the old one, and a link is not followed.

    Raises:
        UserError: In ``setup``, if it cannot be written.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write it once, on rank zero; remote folders are left to Lightning."""
        self._folder = str(trainer.log_dir)  # asked for on all ranks
        self.save_to_log_dir = "://" in self._folder
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write it; called on rank zero."""
        if self.save_to_log_dir:
            return
        path = Path(self._folder) / self.config_filename
        try:
            write_text(path, self.parser.dump(self.config, skip_none=False, skip_validation=True))  # was checked
        except OSError as error:
            raise unwritable(path, error) from error
