"""The interval of tokens per forward, from sums over answers."""

from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from dmaxlit.metrics.base import check_same_length

__all__ = ["TokensPerForwardInterval", "tpf_interval"]


def tpf_interval(tokens: Tensor, forwards: Tensor, confidence: float = 0.95) -> tuple[float, float]:
    """Compute the interval of the TPF of some answers; see :class:`TokensPerForwardInterval`.

    Args:
        tokens: ``[N]`` generated tokens of each answer, up to and including EOS.
        forwards: ``[N]`` forwards each answer took part in, at least 1.
        confidence: Coverage, in (0, 1).

    Returns:
        Lower and upper bound; nan for fewer than two answers or no tokens.

    Raises:
        ValueError: For vectors of different length.
    """
    return _interval(_sums(tokens, forwards), confidence)


class TokensPerForwardInterval(Metric):
    """The 95% interval of TPF by the convention ``dmaxlit``, over the answers of all ranks.

    TPF is a ratio of two means, ``R = sum n_i / sum f_i``. Its standard error by linearisation (Cochran, Sampling
    Techniques, 1977, section 6.3) is ``s = sqrt(N / (N - 1) sum_i (n_i - R f_i)^2) / sum_i f_i``; the interval is
    symmetric in the logarithm, ``R exp(+-z s / R)``, so that it stays positive. Only sums over answers are needed.

    - Input ``tokens``, ``forwards``: ``[N]`` counts.
    - Output: ``[2]`` lower and upper bound, float64; nan for fewer than two answers.

    Args:
        **kwargs: Options of :class:`torchmetrics.Metric`.

    Example:
        >>> import torch
        >>> interval = TokensPerForwardInterval()
        >>> interval.update(torch.tensor([10, 6, 8]), torch.tensor([2, 3, 3]))
        >>> [round(bound, 2) for bound in interval.compute().tolist()]
        [1.8, 5.0]
    """

    full_state_update = False
    is_differentiable = False

    sums: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("sums", default=torch.zeros(6, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, tokens: Tensor, forwards: Tensor) -> None:
        """Count answers.

        Args:
            tokens: ``[N]`` generated tokens, up to and including EOS.
            forwards: ``[N]`` forwards taken part in, at least 1.

        Raises:
            ValueError: For vectors of different length.
        """
        self.sums += _sums(tokens, forwards).to(self.sums)

    def compute(self) -> Tensor:
        """Return the bounds."""
        return torch.tensor(_interval(self.sums, 0.95), dtype=torch.float64)

    def bounds(self) -> tuple[float, float]:
        """Return the bounds over all ranks: (low, high)."""
        with self.sync_context():
            return _interval(self.sums, 0.95)


def _sums(tokens: Tensor, forwards: Tensor) -> Tensor:
    """Return ``[6]`` float64: N, and the sums of n, f, n^2, nf and f^2."""
    check_same_length(tokens=tokens, forwards=forwards)
    n, f = tokens.double(), forwards.double()
    return torch.stack([torch.ones_like(n).sum(), n.sum(), f.sum(), (n * n).sum(), (n * f).sum(), (f * f).sum()])


def _interval(sums: Tensor, confidence: float) -> tuple[float, float]:
    count, n, f, nn, nf, ff = sums.cpu()
    ratio = n / f
    residuals = (nn - 2 * ratio * nf + ratio**2 * ff).clamp(min=0)  # rounding may make it negative
    error = (count / (count - 1) * residuals).sqrt() / f if count > 1 else torch.nan
    width = NormalDist().inv_cdf((1 + confidence) / 2) * error / ratio
    low, high = ratio * torch.tensor([-1.0, 1.0], dtype=torch.float64).mul(width).exp()
    return float(low), float(high)
