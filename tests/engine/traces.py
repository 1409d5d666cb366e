"""A trace made by hand."""

import torch

from dmaxlit.engine import RowTrace, TokenState


def hand_made():
    """Two blocks of four; the first begins with two prompt tokens, and the last token is beyond the response."""
    prompt, masked, soft, token, committed = TokenState
    return RowTrace(
        start=torch.tensor([4, 4, 4, 8, 8]),
        ids=torch.tensor([[7, 7, 1, 9], [7, 7, 1, 2], [7, 7, 3, 2], [4, 9, 9, 9], [4, 5, 6, 6]], dtype=torch.int32),
        confidence=torch.rand(5, 4).half(),
        state=torch.tensor(
            [
                [prompt, prompt, soft, masked],
                [prompt, prompt, token, token],
                [prompt, prompt, committed, committed],
                [token, masked, masked, masked],
                [committed, committed, committed, committed],
            ],
            dtype=torch.uint8,
        ),
        num_tokens=5,
    )
