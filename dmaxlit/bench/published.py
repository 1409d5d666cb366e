"""The training step of DMax's published code, as a baseline.

It follows ``dFactory/tasks/train_llada2_bd_oput.py``: the input is the noisy copy followed by the clean one under a
dense mask; every micro-batch rolls out, whether its guesses are used or not; logits are taken at all positions of both
copies, in float32; a sample's masked and predicted copies are in different micro-batches.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from dmaxlit.backbone.attention import block_diffusion_mask
from dmaxlit.backbone.denoiser import Denoiser
from dmaxlit.tokens import CleanBatch


def published_update(denoiser: Denoiser, clean: CleanBatch, masked: Tensor) -> Tensor:
    """Add the gradients of one batch, of its masked copies first, then of its predicted ones.

    The published code takes one sequence at a time; this takes the batch.

    Args:
        denoiser: The model.
        clean: Clean sequences without padding.
        masked: ``[batch, length]`` bool, the masked positions.

    Returns:
        The sum of both losses, each summed over the response tokens.
    """
    total = torch.zeros((), device=clean.ids.device)
    for predicted in (False, True):
        noisy_ids = clean.with_masks(masked)
        denoiser.eval()
        with torch.no_grad():
            guess = _logits(denoiser, noisy_ids, clean).argmax(-1)
        denoiser.train()
        if predicted:
            noisy_ids = torch.where(masked, guess, noisy_ids)
        logits = _logits(denoiser, noisy_ids, clean)
        labels = clean.ids.masked_fill(~clean.in_loss, -100)
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum", ignore_index=-100)
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    return total


def _logits(denoiser: Denoiser, noisy_ids: Tensor, clean: CleanBatch) -> Tensor:
    """Compute the logits of both copies in float32; return those of the noisy one, ``[batch, length, vocab]``."""
    batch, length = noisy_ids.shape
    blocks = clean.blocks.repeat(2)
    noisy = torch.arange(2 * length, device=noisy_ids.device) < length
    allowed = block_diffusion_mask(blocks, blocks, noisy, noisy).expand(batch, -1, -1)
    positions = torch.arange(length, device=noisy_ids.device).repeat(2).expand(batch, -1)
    hidden = denoiser.hidden(allowed, positions, input_ids=torch.cat([noisy_ids, clean.ids], 1))
    return denoiser.logits(hidden).float()[:, :length]
