"""The training step of DMax's published code, as plainly as it is written there, to be measured against.

Facts from ``dFactory/tasks/train_llada2_bd_oput.py``: the input is the noisy copy followed by the clean one under a
dense mask; every micro-batch rolls out, whether its guesses are used or not; logits are taken at all positions of both
copies, in float32; a sample's masked and predicted copies come in different micro-batches.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from dmaxlit.backbone.attention import block_diffusion_mask
from dmaxlit.backbone.denoiser import Denoiser
from dmaxlit.tokens import CleanBatch

__all__ = ["published_update"]


def published_update(denoiser: Denoiser, clean: CleanBatch, masked: Tensor) -> Tensor:
    """Gradients of one batch, masked copies first, then predicted ones; returns the sum of both losses.

    Both are summed over the response tokens. Where the published code can only take one sequence at a time, this takes
    the batch.

    Args:
        denoiser: The model.
        clean: Clean sequences without padding.
        masked: ``[batch, length]`` bool, the positions that are masked.
    """
    total = torch.zeros((), device=clean.ids.device)
    for predicted in (False, True):
        shown = clean.with_masks(masked)
        denoiser.eval()
        with torch.no_grad():
            guess = _logits(denoiser, shown, clean).argmax(-1)
        denoiser.train()
        if predicted:
            shown = torch.where(masked, guess, shown)
        logits = _logits(denoiser, shown, clean)
        labels = clean.ids.masked_fill(~clean.response, -100)
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum", ignore_index=-100)
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    return total


def _logits(denoiser: Denoiser, shown: Tensor, clean: CleanBatch) -> Tensor:
    """Float32 logits of the noisy copy, ``[batch, length, vocab]``, out of those of both copies."""
    batch, length = shown.shape
    blocks = clean.blocks.repeat(2)
    noisy = torch.arange(2 * length, device=shown.device) < length
    allowed = block_diffusion_mask(blocks, blocks, noisy, noisy).expand(batch, -1, -1)
    positions = torch.arange(length, device=shown.device).repeat(2).expand(batch, -1)
    hidden = denoiser.hidden(allowed, positions, input_ids=torch.cat([shown, clean.ids], 1))
    return denoiser.logits(hidden).float()[:, :length]
