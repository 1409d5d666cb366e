"""Autoregressive pretraining, for models that become block-diffusion models."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

import lightning as L
import torch
from torch.nn.utils.rnn import pad_sequence

from dmaxlit.backbone.formats.metadata import NEXT_TOKEN
from dmaxlit.callbacks._module import ModuleChange, require_dmax_module
from dmaxlit.data.encoding import EosFill, encode_pair
from dmaxlit.errors import UserError
from dmaxlit.module import DMaxModule
from dmaxlit.randomness import RowGenerator
from dmaxlit.tasks import Example
from dmaxlit.tokens import CleanBatch, Role
from dmaxlit.training.losses import ViewLoss
from dmaxlit.training.next_token import next_token_loss
from dmaxlit.training.objective import Objective
from dmaxlit.training.step_sums import StepSums, means

__all__ = ["NextTokenTraining"]


class NextTokenTraining(ModuleChange):
    """Trains the model on the next token with the causal mask, instead of on the views of its noise strategy.

    An update needs one forward over the clean text, and learns from every token of the response; masked diffusion needs
    two, and learns from the masked ones. So a small model learns a task several times sooner this way, and masked
    training then turns it into a block-diffusion model, as LLaDA2.0 was made (arXiv 2512.15745).

    Validation gives the same loss on the reference responses of the validation prompts, as ``val/loss``, if the task
    has some; rows longer than the model's context are left out. The model cannot be decoded before it is adapted: that
    is another run, on the model that ``dmaxlit export`` makes of this one's checkpoint. ``fit`` does not go on with one
    as the other.

    Raises:
        UserError: When ``fit`` starts, if the trainer's module is no ``DMaxModule``, or trains an auxiliary model.
    """

    objective: ClassVar[Objective] = Objective(NEXT_TOKEN, whole_logits=False)

    def __init__(self) -> None:
        super().__init__()
        self._sums = StepSums()

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Replace the losses of the views, and leave the first token out of the loss, which nothing precedes."""
        require_dmax_module(self, pl_module)
        self._sums = StepSums()  # an interrupted validation leaves some
        assert isinstance(pl_module, DMaxModule)
        backbone = pl_module.backbone
        if backbone.trains_auxiliary:
            raise UserError("auxiliary: expected none with NextTokenTraining, which trains the denoiser, got one")

        def losses(clean: CleanBatch, generator: RowGenerator) -> list[ViewLoss]:
            return [next_token_loss(backbone, clean)]

        def clean_batch(batch: dict[str, Any]) -> CleanBatch:
            clean = type(pl_module).clean_batch(pl_module, batch)
            roles = clean.roles.clone()
            roles[:, 0] = Role.PROMPT
            return replace(clean, roles=roles)

        pl_module.view_losses = losses  # type: ignore[method-assign]
        pl_module.clean_batch = clean_batch  # type: ignore[method-assign]

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add the loss of the reference responses."""
        module: Any = pl_module
        examples = batch.get("examples", ()) if isinstance(batch, Mapping) else ()
        clean = _clean_batch(module, examples, getattr(trainer, "datamodule", None))
        if clean is not None:
            self._sums.add("val/loss", next_token_loss(module.backbone, clean).total, clean.in_loss.sum())

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the mean over all of their tokens."""
        for name, mean in means(self._sums.reduced(trainer)).items():
            pl_module.log(name, mean)

    def undo(self, pl_module: L.LightningModule) -> None:
        """Restore the losses of the views."""
        for name in ("view_losses", "clean_batch"):
            pl_module.__dict__.pop(name, None)


def _clean_batch(module: DMaxModule, examples: Sequence[Example], data: Any) -> CleanBatch | None:
    """Return prompts with their reference responses as training rows; None if no response fits or there is none."""
    length, eos_fill = module.backbone.block_length, cast(EosFill, getattr(data, "eos_fill", "block"))
    pairs = [
        encode_pair(module.tokenizer, example.prompt, example.response, length, eos_fill)
        for example in examples
        if example.response is not None
    ]
    pairs = [pair for pair in pairs if len(pair.ids) <= module.backbone.max_length]
    if not pairs:
        return None
    ids, roles = (
        pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=padding).to(module.device)
        for rows, padding in (
            ([pair.ids for pair in pairs], module.special.pad_id),
            ([pair.roles for pair in pairs], int(Role.PAD)),
        )
    )
    return module.clean_batch({"ids": ids, "roles": roles})
