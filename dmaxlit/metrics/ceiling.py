"""The upper bound of TPF: one forward per block."""

from typing import Any

import torch
from torch import Tensor

from dmaxlit.errors import check_at_least
from dmaxlit.metrics.base import RatioMetric, check_same_length, quotient

__all__ = ["TokensPerBlock", "answer_blocks", "tokens_per_block"]


def answer_blocks(prompt_lengths: Tensor, tokens: Tensor, block_length: int) -> Tensor:
    """Count the blocks of the grid in which each answer has tokens.

    The grid starts at position 0 of the sequence, so the first block may be mostly prompt: an answer at positions
    ``p .. p+n-1`` spans ``floor((p+n-1)/T) - floor(p/T) + 1`` blocks.

    Args:
        prompt_lengths: ``[N]`` tokens of each prompt, p.
        tokens: ``[N]`` tokens of each answer, n; an empty answer spans no block.
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
    check_same_length(prompt_lengths=prompt_lengths, tokens=tokens)
    first = prompt_lengths // block_length
    last = (prompt_lengths + tokens - 1) // block_length
    return torch.where(tokens > 0, last - first + 1, 0)


def tokens_per_block(prompt_lengths: Tensor, tokens: Tensor, block_length: int) -> Tensor:
    """Compute the tokens of all answers over the blocks they span, ``sum n / sum b``; see :class:`TokensPerBlock`.

    Args:
        prompt_lengths: ``[N]`` tokens of each prompt.
        tokens: ``[N]`` tokens of each answer.
        block_length: Tokens per block of the grid, at least 1.

    Returns:
        A float64 scalar; nan if no answer has tokens.

    Raises:
        UserError: For a block length below 1.
        ValueError: For vectors of different length.

    Example:
        >>> import torch
        >>> float(tokens_per_block(torch.tensor([12, 12]), torch.tensor([20, 22]), block_length=16))
        8.4
    """
    check_at_least(1, block_length=block_length)
    return quotient(tokens.sum(), answer_blocks(prompt_lengths, tokens, block_length).sum())


class TokensPerBlock(RatioMetric):
    """Tokens of the answers over the blocks they span, ``sum n / sum b``: TPF at one forward per block.

    No block decoder can have a higher TPF (by the convention ``dmaxlit``) on the same answers. With a window of 1, half
    of it bounds the decoders that always confirm a block in a further forward: ``edit`` (unless ``max_post_edit_steps``
    is 0), ``t2m``, ``uniform``, ``generate_then_edit``, and ``spd`` by consistency alone. Others that revise may close
    a block after its first forward: ``spd`` by confidence, ``hierarchical`` with ``tau_remask``, and ``wino`` where no
    more than 5 tokens are missing.

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
        check_at_least(1, block_length=block_length)
        self.block_length = block_length

    def update(self, prompt_lengths: Tensor, tokens: Tensor) -> None:
        """Count answers.

        Args:
            prompt_lengths: ``[N]`` tokens of each prompt.
            tokens: ``[N]`` tokens of each answer.

        Raises:
            ValueError: For vectors of different length.
        """
        self._add(tokens.sum(), answer_blocks(prompt_lengths, tokens, self.block_length).sum())
