"""The loss of an autoregressive model."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dmaxlit.backbone.attention import CausalMask
from dmaxlit.backbone.denoiser import Denoiser
from dmaxlit.tokens import CleanBatch
from dmaxlit.training.losses import ViewLoss
from dmaxlit.training.prediction import ChunkedPrediction, OutputHead


def next_token_loss(backbone: Denoiser, clean: CleanBatch) -> ViewLoss:
    """Compute ``sum over response positions i of -log p(x[i] | x[<i])``, read off position ``i - 1``.

    Args:
        backbone: The model; it attends causally here, token by token.
        clean: The batch; nothing in it is masked.
    """
    ids, length = clean.ids, clean.ids.shape[1]
    positions = torch.arange(length, device=ids.device).expand_as(ids)
    compute = backbone.training_hidden if backbone.training else backbone.hidden
    hidden = compute(CausalMask(length, ids.device), positions, input_ids=ids)
    supervised = clean.in_loss[:, 1:]
    target = ids[:, 1:][supervised]
    hits: list[Tensor] = []

    def score(logits: Tensor, chunk: slice) -> Tensor:
        hits.append(logits.argmax(-1) == target[chunk])
        return F.cross_entropy(logits.float(), target[chunk], reduction="sum")

    total = ChunkedPrediction(hidden[:, :-1][supervised], supervised, OutputHead(backbone)).sum(score)
    count, right = supervised.sum(), torch.cat(hits).sum()
    zero = torch.zeros_like(right)
    return ViewLoss("next", total, total.detach(), count, zero, zero, zero, zero, count, count - right)
