"""Logits with known probabilities."""

import math

import torch

from tests.engine.scripted import SPECIAL


def logits_of(*rows, vocab=SPECIAL.vocab_size):
    """Return logits ``[R, T, V]`` with a certain probability of position i's top-1 token; others share the rest.

    Each row is a list of ``(token, probability)``.
    """
    out = torch.full((len(rows), len(rows[0]), vocab), -math.inf)
    for r, row in enumerate(rows):
        for t, (token, probability) in enumerate(row):
            rest = (1 - probability) / (vocab - 2)
            out[r, t] = math.log(rest) if rest > 0 else -math.inf
            out[r, t, token] = math.log(probability)
    out[..., SPECIAL.mask_id] = -math.inf
    return out


def fresh(decoder, length=4, prompt=()):
    """Return the state of one block that begins with the prompt's tokens."""
    ids = torch.tensor([list(prompt) + [0] * (length - len(prompt))])
    editable = torch.arange(length)[None] >= len(prompt)
    return decoder.start(ids, editable, SPECIAL)


def run(decoder, state, *steps):
    """Return the states after one-row steps, each ``[(token, probability), ...]``."""
    states = []
    for step in steps:
        state = decoder.step(state, logits_of(step), SPECIAL)
        states.append(state)
    return states
