"""An ordinary autoregressive model, to be adapted: trained on the next token with the causal mask."""

import torch
import torch.nn.functional as F
from torch import nn

from dmaxlit.backbone.mask_embedding import init_mask_embedding
from dmaxlit.module import DMaxModule
from dmaxlit.randomness import RowGenerator
from dmaxlit.tokens import CleanBatch
from dmaxlit.training.losses import ViewLoss

__all__ = ["AutoregressiveModule"]


class AutoregressiveModule(DMaxModule):
    """``loss = sum over response positions i of -log p(x[i] | x[<i])``, read off position ``i - 1``; no masks."""

    def view_losses(self, clean: CleanBatch, generator: RowGenerator) -> list[ViewLoss]:
        """The one loss."""
        ids, length = clean.ids, clean.ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
        positions = torch.arange(length, device=ids.device).expand_as(ids)
        hidden = self.backbone.hidden(causal.expand(len(ids), -1, -1), positions, input_ids=ids)
        at = clean.response[:, 1:]
        logits, target = self.backbone.logits(hidden[:, :-1][at]), ids[:, 1:][at]
        total = F.cross_entropy(logits.float(), target, reduction="sum")
        right = (logits.argmax(-1) == target).sum()
        none = torch.zeros_like(right)
        return [
            ViewLoss("next", total, total.detach(), at.sum(), none, none, none, none, at.sum(), at.sum() - right),
        ]

    def forget_mask(self) -> None:
        """Give the mask token the embedding it would get if the tokenizer had none."""
        table = self.backbone.model.get_input_embeddings()
        assert isinstance(table, nn.Embedding), "refused otherwise"
        init_mask_embedding(table, [self.special.mask_id], len(self.tokenizer))
