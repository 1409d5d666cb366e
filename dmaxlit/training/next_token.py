"""The loss of an autoregressive model."""

import torch
import torch.nn.functional as F

from dmaxlit.backbone.denoiser import Denoiser
from dmaxlit.tokens import CleanBatch
from dmaxlit.training.losses import ViewLoss


def next_token_loss(backbone: Denoiser, clean: CleanBatch) -> ViewLoss:
    """Compute ``sum over response positions i of -log p(x[i] | x[<i])``, read off position ``i - 1``.

    Args:
        backbone: The model; it attends causally here, token by token.
        clean: The batch; nothing in it is masked.
    """
    ids, length = clean.ids, clean.ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
    positions = torch.arange(length, device=ids.device).expand_as(ids)
    hidden = backbone.hidden(causal.expand(len(ids), -1, -1), positions, input_ids=ids)
    supervised = clean.in_loss[:, 1:]
    logits, target = backbone.logits(hidden[:, :-1][supervised]), ids[:, 1:][supervised]
    total = F.cross_entropy(logits.float(), target, reduction="sum")
    count, right = supervised.sum(), (logits.argmax(-1) == target).sum()
    zero = torch.zeros_like(right)
    return ViewLoss("next", total, total.detach(), count, zero, zero, zero, zero, count, count - right)
