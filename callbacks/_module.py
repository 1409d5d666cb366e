"""The module that a callback works with."""

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
