"""Two plain decoding loops as baselines of the engine. Both decode one prompt at a time.

They are what one would write first: a Python loop around a transformers model that compares confidences token by token.
"""

import torch
from torch import Tensor
from transformers import DynamicCache

from dmaxlit.backbone.denoiser import Denoiser
from dmaxlit.device_copies import on_device


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

    Positions are ordered by log-odds, rounded as in the engine, so that both write the same tokens. They are read from
    the device once.
    """
    positions = [position for position in range(first, start + len(logits)) if ids[position] == mask]
    logits = logits[on_device([position - start for position in positions], logits.device)].float()
    tokens = logits.argmax(-1, keepdim=True)
    log_odds = logits.gather(-1, tokens) - logits.scatter(-1, tokens, -torch.inf).logsumexp(-1, keepdim=True)
    predictions = torch.cat([log_odds.double(), tokens], 1).tolist()
    candidates = [
        (-round(odds * 1024), position, int(token))
        for position, (odds, token) in zip(positions, predictions, strict=True)
    ]
    for _, position, token in sorted(candidates)[:count]:
        ids[position] = token
