"""Two plain decoding loops as baselines of the engine. Both decode one prompt at a time.

They are what one would write first: a Python loop around a transformers model that compares confidences token by token.
"""

import torch
from torch import Tensor
from transformers import DynamicCache

from dmaxlit.backbone.denoiser import Denoiser


def naive_loop(denoiser: Denoiser, prompt: list[int], max_new_tokens: int, tokens_per_step: int) -> list[int]:
    """Decode with forwards that each read the whole sequence so far.

    Args:
        denoiser: The model.
        prompt: Token ids.
        max_new_tokens: Tokens to generate.
        tokens_per_step: Tokens committed at each forward, the most confident first.

    Returns:
        The generated tokens. EOS is not special.
    """
    length, mask = denoiser.block_length, denoiser.special.mask_id
    end = -(-(len(prompt) + max_new_tokens) // length) * length
    ids = prompt + [mask] * (end - len(prompt))
    for start in range(len(prompt) // length * length, end, length):
        first = max(start, len(prompt))
        while mask in ids[first : start + length]:
            window = torch.tensor([ids[: start + length]], device=denoiser.device)
            blocks = torch.arange(start + length, device=window.device) // length
            allowed = (blocks[None, :] <= blocks[:, None])[None]
            positions = torch.arange(start + length, device=window.device)[None]
            hidden = denoiser.hidden(allowed, positions, input_ids=window)[:, -length:]
            _commit(ids, start, first, denoiser.logits(hidden)[0], mask, tokens_per_step)
    return ids[len(prompt) : len(prompt) + max_new_tokens]


def cached_loop(denoiser: Denoiser, prompt: list[int], max_new_tokens: int, tokens_per_step: int) -> list[int]:
    """Decode with a growing cache of finished blocks.

    This is what DMax's published code does: the first forward of a block also writes the keys of the block before it,
    and the cache is rebuilt by concatenation at every forward. Arguments and result are those of :func:`naive_loop`.
    """
    length, mask = denoiser.block_length, denoiser.special.mask_id
    device = denoiser.device
    end = -(-(len(prompt) + max_new_tokens) // length) * length
    ids = prompt + [mask] * (end - len(prompt))
    cache, cached = DynamicCache(), 0
    for start in range(len(prompt) // length * length, end, length):
        first = max(start, len(prompt))
        while mask in ids[first : start + length]:
            window = torch.tensor([ids[cached : start + length]], device=device)
            positions = torch.arange(cached, start + length, device=device)[None]
            keys = torch.arange(start + length, device=device) // length
            allowed = (keys[None, :] <= (positions[0] // length)[:, None])[None]
            hidden = denoiser.hidden(allowed, positions, cache, input_ids=window)[:, -length:]
            cache.crop(-length)  # the keys of the open block are out of date at the next forward
            cached = start
            _commit(ids, start, first, denoiser.logits(hidden)[0], mask, tokens_per_step)
    return ids[len(prompt) : len(prompt) + max_new_tokens]


def _commit(ids: list[int], start: int, first: int, logits: Tensor, mask: int, count: int) -> None:
    """Write the most confident predictions into the open positions of the block, in place.

    Positions are ordered by log-odds, rounded as in the engine, so that both write the same tokens.
    """
    logits = logits.float()
    candidates = []
    for offset in range(len(logits)):
        position = start + offset
        if position >= first and ids[position] == mask:
            token = int(logits[offset].argmax().item())
            others = logits[offset].index_fill(0, torch.tensor(token, device=logits.device), -torch.inf)
            log_odds = (logits[offset, token] - others.logsumexp(0)).item()
            candidates.append((-round(log_odds * 1024), position, token))
    for _, position, token in sorted(candidates)[:count]:
        ids[position] = token
