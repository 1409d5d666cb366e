"""Tokens per forward (TPF)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dmaxlit.errors import UserError, check_at_least
from dmaxlit.metrics.base import RatioMetric, check_same_length, quotient

__all__ = ["CONVENTIONS", "Convention", "TokensPerForward", "tokens_per_forward"]


@dataclass(frozen=True)
class Convention:
    """A way of counting TPF.

    Args:
        count_eos: Whether the EOS token of an answer that ends with one counts.
        prefill: Forwards charged for the prompt.
        pooled: True: all tokens over all forwards. False: the mean of the quotients of the answers.
    """

    count_eos: bool
    prefill: int
    pooled: bool


CONVENTIONS = {
    "dmaxlit": Convention(count_eos=True, prefill=0, pooled=True),
    "published": Convention(count_eos=False, prefill=1, pooled=False),
    "without_eos": Convention(count_eos=False, prefill=0, pooled=True),
}


def _convention(name: str) -> Convention:
    if name not in CONVENTIONS:
        raise UserError(f"unknown TPF convention {name!r}; known: {', '.join(sorted(CONVENTIONS))}")
    return CONVENTIONS[name]


def _sums(
    tokens: Tensor, forwards: Tensor, ends_with_eos: Tensor, rule: Convention, prefill: int | None = None
) -> tuple[Tensor, Tensor]:
    check_same_length(tokens=tokens, forwards=forwards, ends_with_eos=ends_with_eos)
    if bool((forwards < 1).any()):
        raise ValueError("forwards: expected at least 1 for every answer")
    counted = tokens if rule.count_eos else tokens - ends_with_eos.to(tokens.dtype)
    charged = forwards + (rule.prefill if prefill is None else prefill)
    if rule.pooled:
        return counted.sum(), charged.sum()
    return (counted.double() / charged.double()).sum(), torch.tensor(len(tokens))


def tokens_per_forward(
    tokens: Tensor,
    forwards: Tensor,
    ends_with_eos: Tensor,
    convention: str = "dmaxlit",
    prefill: int | None = None,
) -> Tensor:
    """Compute the TPF of some answers; see :class:`TokensPerForward`.

    Args:
        tokens: ``[N]`` generated tokens of each answer, up to and including EOS.
        forwards: ``[N]`` forwards each answer took part in, at least 1.
        ends_with_eos: ``[N]`` bool, whether the last of the tokens is EOS; False for an answer that a stop text ended.
        convention: ``dmaxlit``, ``published`` or ``without_eos``.
        prefill: Forwards to add for each prompt, at least 0; None for those of the convention. 0 where ``forwards``
            holds the prompt's already, as in autoregressive decoding.

    Returns:
        A float64 scalar; nan for no answers.

    Raises:
        UserError: For an unknown convention, or a prefill below 0.
        ValueError: For vectors of different length, or an answer without a forward.
    """
    check_at_least(0, prefill=prefill)
    return quotient(*_sums(tokens, forwards, ends_with_eos, _convention(convention), prefill))


class TokensPerForward(RatioMetric):
    """Generated tokens per forward of the model.

    - ``dmaxlit``: ``sum_i n_i / sum_i f_i`` with ``n_i`` the tokens of answer i up to and including EOS and ``f_i`` the
      forwards in which its row took part, whatever other rows shared them.
    - ``published``: ``mean_i (n_i - e_i) / (f_i + 1)``, with ``e_i`` 1 if EOS ends answer i, else 0, as in DMax's
      evaluation: EOS does not count, the prompt is charged one forward, and short answers weigh as much as long ones.
      DMax's own count is of all ids but EOS in the returned row, those behind the first EOS of the final block
      included; ours stops at the first EOS.
    - ``without_eos``: ``sum_i (n_i - e_i) / sum_i f_i``, the micro-average of the strictest public protocols:
      neither EOS nor padding nor the prompt counts.

    In our engine neither prefill nor cache commits take a separate forward. The prompt's blocks, and later every
    finished block, are processed in the row's next denoising forward, which writes their keys and values. So ``f_i``
    counts every forward; ``published`` adds the one that its engine spends on the prompt. That engine also fuses the
    commit of a block into the next forward, so nothing is added for commits.

    - Input ``tokens``, ``forwards``: ``[N]`` counts; ``ends_with_eos``: ``[N]`` bool, whether EOS is the last token.
    - Output: a scalar.

    Args:
        convention: ``dmaxlit``, ``published`` or ``without_eos``.
        **kwargs: Options of :class:`torchmetrics.Metric`.

    Raises:
        UserError: For an unknown convention.

    Example:
        >>> import torch
        >>> tokens, forwards = torch.tensor([10, 6]), torch.tensor([2, 6])
        >>> ends_with_eos = torch.tensor([True, False])
        >>> tpf = TokensPerForward()
        >>> tpf.update(tokens, forwards, ends_with_eos)
        >>> float(tpf.compute())  # (10 + 6) / (2 + 6)
        2.0
        >>> published = TokensPerForward("published")
        >>> published.update(tokens, forwards, ends_with_eos)
        >>> round(float(published.compute()), 4)  # (9 / 3 + 6 / 7) / 2
        1.9286
    """

    def __init__(self, convention: str = "dmaxlit", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rule = _convention(convention)
        self.convention = convention

    def update(self, tokens: Tensor, forwards: Tensor, ends_with_eos: Tensor) -> None:
        """Count answers.

        Args:
            tokens: ``[N]`` generated tokens, up to and including EOS.
            forwards: ``[N]`` forwards taken part in, at least 1.
            ends_with_eos: ``[N]`` bool, whether the last of the tokens is EOS; False for an answer that a stop text
                ended.

        Raises:
            ValueError: For vectors of different length, or an answer without a forward.
        """
        self._add(*_sums(tokens, forwards, ends_with_eos, self.rule))
