"""Tokens per second (TPS)."""

import torch
from torch import Tensor

from dmaxlit.metrics.base import RatioMetric

__all__ = ["TokensPerSecond", "tokens_per_second"]


def tokens_per_second(tokens: Tensor, seconds: float) -> Tensor:
    """TPS of answers decoded together: ``sum_i n_i / seconds``.

    Args:
        tokens: ``[N]`` generated tokens of each answer, up to and including EOS.
        seconds: Wall-clock time of the call that decoded them.

    Raises:
        ValueError: For a negative time.
    """
    if seconds < 0:
        raise ValueError(f"seconds: expected at least 0, got {seconds}")
    return tokens.sum().double() / torch.tensor(seconds, dtype=torch.float64)


class TokensPerSecond(RatioMetric):
    """Generated tokens per second of wall-clock time, ``sum n / sum s``.

    Tokens are counted up to and including EOS, whatever the convention of TPF; the time is that of whole calls of
    ``generate``, prompts' prefill and cache commits included. Ranks work at the same time and their seconds add up, so
    the figure is that of one device and does not grow with their number.

    - Input ``tokens``: ``[N]`` counts; ``seconds``: a number.
    - Output: a scalar.

    Raises:
        ValueError: On update, for a negative time.

    Example:
        >>> import torch
        >>> tps = TokensPerSecond()
        >>> tps.update(torch.tensor([30, 50]), seconds=0.5)
        >>> tps.update(torch.tensor([20]), seconds=0.75)
        >>> float(tps.compute())
        80.0
    """

    def update(self, tokens: Tensor, seconds: float) -> None:
        """Count one timed call.

        Args:
            tokens: ``[N]`` generated tokens of its answers.
            seconds: How long it took.

        Raises:
            ValueError: For a negative time.
        """
        if seconds < 0:
            raise ValueError(f"seconds: expected at least 0, got {seconds}")
        self._add(tokens.sum(), torch.tensor(seconds, dtype=torch.float64))
