"""The module that a callback works with, and may change while it is trained."""

from abc import ABC, abstractmethod

import lightning as L

from dmaxlit.errors import UserError
from dmaxlit.module import DMaxModule


def require_dmax_module(callback: L.Callback, pl_module: L.LightningModule) -> None:
    """Refuse a trainer whose module is none of ours; to be called in ``setup``.

    Raises:
        UserError: If so, for instance if it only contains one.
    """
    if not isinstance(pl_module, DMaxModule):
        raise UserError(
            f"{type(callback).__name__}: expected the trainer's module to be a DMaxModule or a subclass, got "
            f"{type(pl_module).__name__}"
        )


class ModuleChange(L.Callback, ABC):
    """A callback that changes the module for the time of a run, and takes the change back however the run ends.

    Lightning calls ``teardown`` only where no error or Ctrl-C ended the run; the module may be used after both.
    """

    @abstractmethod
    def undo(self, pl_module: L.LightningModule) -> None:
        """Take back what was changed, if anything was."""

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Take the change back at the end."""
        self.undo(pl_module)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Take the change back where an error or Ctrl-C ends the run; a module that was refused is as it was."""
        if isinstance(pl_module, DMaxModule):
            self.undo(pl_module)
