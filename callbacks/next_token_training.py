"""Autoregressive pretraining, for models that become block-diffusion models."""

from typing import ClassVar

import lightning as L

from dmaxlit.callbacks._module import require_dmax_module
from dmaxlit.module import DMaxModule
from dmaxlit.randomness import RowGenerator
from dmaxlit.tokens import CleanBatch
from dmaxlit.training.losses import ViewLoss
from dmaxlit.training.next_token import next_token_loss
from dmaxlit.training.objective import Objective

__all__ = ["NextTokenTraining"]


class NextTokenTraining(L.Callback):
    """Trains the model on the next token with the causal mask, instead of on the views of its noise strategy.

    An update needs one forward over the clean text, and learns from every token of the response; masked diffusion needs
    two, and learns from the masked ones. So a small model learns a task several times sooner this way, and masked
    training then turns it into a block-diffusion model, as LLaDA2.0 was made (arXiv 2512.15745).

    Validation gives the same loss, as ``val/loss``. The model cannot be decoded before it is adapted: that is another
    run, on the model that ``dmaxlit export`` makes of this one's checkpoint. ``fit`` does not go on with one as the
    other.

    Raises:
        UserError: When ``fit`` starts, if the trainer's module is no ``DMaxModule``.
    """

    objective: ClassVar[Objective] = Objective("next token")

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Replace the losses of the views."""
        require_dmax_module(self, pl_module)
        assert isinstance(pl_module, DMaxModule)
        backbone = pl_module.backbone

        def losses(clean: CleanBatch, generator: RowGenerator) -> list[ViewLoss]:
            return [next_token_loss(backbone, clean)]

        pl_module.view_losses = losses  # type: ignore[method-assign]

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Restore the losses of the views."""
        pl_module.__dict__.pop("view_losses", None)
