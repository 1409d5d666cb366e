"""The ceiling of TPF: what one forward a block would give."""

from typing import Any

import torch
from torch import Tensor

from dmaxlit.errors import UserError
from dmaxlit.metrics.base import RatioMetric, same_length

__all__ = ["TokensPerBlock", "answer_blocks"]


def answer_blocks(prompt_lengths: Tensor, tokens: Tensor, block_length: int) -> Tensor:
    """How many blocks of the grid each answer has tokens in.

    The grid starts at position 0 of the sequence, so the first block may be mostly prompt: an answer at positions
    ``p .. p+n-1`` spans ``floor((p+n-1)/T) - floor(p/T) + 1`` blocks.

    Args:
        prompt_lengths: ``[N]`` tokens of each prompt, p.
        tokens: ``[N]`` tokens of each answer, n; none span no block.
        block_length: T.

    Returns:
        ``[N]`` counts.

    Raises:
        ValueError: For vectors of different length.

    Example:
        >>> import torch
        >>> answer_blocks(torch.tensor([12, 12, 16]), torch.tensor([4, 5, 17]), block_length=16)
        tensor([1, 2, 2])
    """
    same_length(prompt_lengths=prompt_lengths, tokens=tokens)
    first = prompt_lengths // block_length
    last = (prompt_lengths + tokens - 1) // block_length
    return torch.where(tokens > 0, last - first + 1, 0)


class TokensPerBlock(RatioMetric):
    """Tokens of the answers over the blocks they span, ``sum n / sum b``: TPF at one forward a block.

    No block decoder can have a higher TPF (by the convention ``dmaxlit``) on the same answers. At two forwards a block,
    the least that a decoder needs which looks again at what it wrote, it is half of this.

    - Input ``prompt_lengths``, ``tokens``: ``[N]`` counts.
    - Output: a scalar.

    Args:
        block_length: Tokens per block of the grid.
        **kwargs: Options of :class:`torchmetrics.Metric`.

    Raises:
        UserError: For a block length below 1.

    Example:
        >>> import torch
        >>> ceiling = TokensPerBlock(block_length=16)
        >>> ceiling.update(torch.tensor([12, 12]), torch.tensor([20, 22]))
        >>> float(ceiling.compute())  # (20 + 22) / (2 + 3)
        8.4
    """

    def __init__(self, block_length: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if block_length < 1:
            raise UserError(f"block_length: expected at least 1, got {block_length}")
        self.block_length = block_length

    def update(self, prompt_lengths: Tensor, tokens: Tensor) -> None:
        """Count some answers.

        Args:
            prompt_lengths: ``[N]`` tokens of each prompt.
            tokens: ``[N]`` tokens of each answer.

        Raises:
            ValueError: For vectors of different length.
        """
        self._add(tokens.sum(), answer_blocks(prompt_lengths, tokens, self.block_length).sum())
