"""Blocks made by hand: one row, written as text."""

import torch

from dmaxlit.decoding.base import BlockState

MASK = 99


def block(text: str) -> BlockState:
    """One block of words: ``p`` is a prompt token, ``_`` a masked position, a number a token of the response."""
    words = text.split()
    ids = [7 if word == "p" else MASK if word == "_" else int(word) for word in words]
    return BlockState(
        ids=torch.tensor([ids]),
        editable=torch.tensor([[word != "p" for word in words]]),
        masked=torch.tensor([[word == "_" for word in words]]),
        step=torch.zeros(1, dtype=torch.long),
        converged=torch.tensor([False]),
    )


def rows(*texts: str) -> BlockState:
    """Several blocks, one per row."""
    state, *others = map(block, texts)
    for other in others:
        state = state.join(other)
    return state
