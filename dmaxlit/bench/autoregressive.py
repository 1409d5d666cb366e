"""Training of an ordinary autoregressive model, which the adaptation benchmark starts from."""

from functools import partial

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn

from dmaxlit.backbone.mask_embedding import init_mask_embedding
from dmaxlit.module import DMaxModule
from dmaxlit.randomness import RowGenerator
from dmaxlit.tokens import CleanBatch
from dmaxlit.training.losses import ViewLoss


class NextTokenTraining(L.Callback):
    """Trains the model on the next token with the causal mask, instead of on the views of its noise strategy."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Replace the losses of the views."""
        assert isinstance(pl_module, DMaxModule), "fit trains no other module"
        pl_module.view_losses = partial(next_token_losses, pl_module)  # type: ignore[method-assign]

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Restore the losses of the views."""
        pl_module.__dict__.pop("view_losses", None)


def next_token_losses(module: DMaxModule, clean: CleanBatch, generator: RowGenerator) -> list[ViewLoss]:
    """Compute ``sum over response positions i of -log p(x[i] | x[<i])``, read off position ``i - 1``.

    Args:
        module: The model.
        clean: The batch; nothing in it is masked.
        generator: Not used.
    """
    ids, length = clean.ids, clean.ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
    positions = torch.arange(length, device=ids.device).expand_as(ids)
    hidden = module.backbone.hidden(causal.expand(len(ids), -1, -1), positions, input_ids=ids)
    supervised = clean.in_loss[:, 1:]
    logits, target = module.backbone.logits(hidden[:, :-1][supervised]), ids[:, 1:][supervised]
    total = F.cross_entropy(logits.float(), target, reduction="sum")
    count, right = supervised.sum(), (logits.argmax(-1) == target).sum()
    zero = torch.zeros_like(right)
    return [ViewLoss("next", total, total.detach(), count, zero, zero, zero, zero, count, count - right)]


def forget_mask(module: DMaxModule) -> None:
    """Reset the mask token's embedding to what it would be had the tokenizer had no mask token."""
    table = module.backbone.model.get_input_embeddings()
    assert isinstance(table, nn.Embedding), "other tables are refused"
    init_mask_embedding(table, [module.special.mask_id], len(module.tokenizer))
