"""Tokens per second (TPS)."""

import torch
from torch import Tensor

from dmaxlit.metrics.base import RatioMetric, quotient

__all__ = ["TokensPerSecond", "tokens_per_second"]


def tokens_per_second(tokens: Tensor, seconds: float) -> Tensor:
    """Compute the TPS of answers decoded together, ``sum_i n_i / seconds``.

    Args:
        tokens: ``[N]`` generated tokens of each answer, up to and including EOS.
        seconds: Wall-clock time of the call that decoded them.

    Raises:
        ValueError: For a negative time.
    """
    return quotient(*_sums(tokens, seconds))


def _sums(tokens: Tensor, seconds: float) -> tuple[Tensor, Tensor]:
    if seconds < 0:
        raise ValueError(f"seconds: expected at least 0, got {seconds}")
    return tokens.sum(), torch.tensor(seconds, dtype=torch.float64)


class TokensPerSecond(RatioMetric):
    """Generated tokens per second of wall-clock time, ``sum n / sum s``.

    Tokens are counted up to and including EOS, whatever the convention of TPF; the time is that of whole calls of
    ``generate``, including prefill and cache commits. Ranks work in parallel but their seconds are added, so the
    result is per device and does not grow with the number of devices.

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
            seconds: Wall-clock time of the call.

        Raises:
            ValueError: For a negative time.
        """
        self._add(*_sums(tokens, seconds))
