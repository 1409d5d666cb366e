"""Made-up recordings, of any size."""

import torch

from dmaxlit.viewer import Recording

MASKED, SOFT, TOKEN, COMMITTED = 1, 2, 3, 4


def synthetic(forwards, length, block_length, vocabulary=30_000, seed=0):
    """Return a recording in which blocks are written one after the other, and one token in ten is revised.

    Confidences are random, which no compression makes smaller.
    """
    generator = torch.Generator().manual_seed(seed)
    num_blocks = -(-length // block_length)
    per_block = [forwards // num_blocks + (number < forwards % num_blocks) for number in range(num_blocks)]
    ids = torch.full((forwards, length), -1)
    state = torch.zeros(forwards, length, dtype=torch.long)
    confidence = torch.full((forwards, length), torch.nan)
    begin = 0
    for number, count in enumerate(per_block):
        block = slice(number * block_length, min((number + 1) * block_length, length))
        width, end = block.stop - block.start, begin + count
        shown_at = torch.randint(0, count, (width,), generator=generator)
        steps = torch.arange(count).unsqueeze(1)
        tokens = torch.randint(0, vocabulary, (count, width), generator=generator)
        changes = torch.rand(count, width, generator=generator) < 0.1
        latest = torch.where(changes | (steps == shown_at), steps, -1).cummax(0).values
        ids[begin:end, block] = torch.where(steps >= shown_at, tokens.gather(0, latest.clamp(min=0)), -1)
        state[begin:end, block] = torch.where(steps >= shown_at, SOFT, MASKED)
        state[end - 1 :, block] = COMMITTED
        ids[end - 1, block] = torch.where(ids[end - 1, block] < 0, tokens[-1], ids[end - 1, block])
        ids[end:, block] = ids[end - 1, block]
        confidence[begin:end, block] = torch.rand(count, width, generator=generator)
        begin = end
    differs = ids != ids[-1]
    finalized = (torch.arange(1, forwards + 1).unsqueeze(1) * differs).amax(0) + 1
    return Recording(ids, confidence, state, finalized, torch.arange(length) // block_length, per_block)


def texts_of(recording):
    """Return a text for each token, of one to eight letters."""
    return {
        token: chr(97 + token % 26) * (1 + token % 7) + " " for token in recording.ids.unique().tolist() if token >= 0
    }
