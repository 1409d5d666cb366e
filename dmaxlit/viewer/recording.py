"""What the page shows of one prompt: every token of its response after every forward."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dmaxlit.errors import UserError
from dmaxlit.metrics import count_revisions, finalization_parallelism, kendall_tau

# The browser keeps five bytes for each token and forward.
MAX_CELLS = 20_000_000


def check_cells(forwards: int, tokens: int) -> None:
    """Refuse the record of a prompt that is too large for a browser.

    Raises:
        UserError: If it is.
    """
    if forwards * tokens > MAX_CELLS:
        raise UserError(
            f"trace: expected tokens x forwards of a prompt to be at most {MAX_CELLS:,}, got {tokens} x {forwards}"
        )


@dataclass(frozen=True)
class Recording:
    """The response to one prompt, of n tokens, after each of F forwards.

    Args:
        ids: ``[F, n]`` token at each position, -1 where there is none yet.
        confidence: ``[F, n]`` probability of the proposed token, nan where it was not computed.
        state: ``[F, n]`` what a position is: 0 not open yet, 1 masked, 2 soft, 3 token, 4 committed.
        finalized: ``[n]`` forward, from 1, at which each token took its final value.
        block: ``[n]`` number of the block of each token, from 0.
        forwards_per_block: Number of forwards of each block, in order.
        prompt: Text of the prompt, empty if it is not known.

    Raises:
        UserError: If it is too large for a browser.
    """

    ids: Tensor
    confidence: Tensor
    state: Tensor
    finalized: Tensor
    block: Tensor
    forwards_per_block: list[int]
    prompt: str = ""

    def __post_init__(self) -> None:
        check_cells(*self.ids.shape)

    def figures(self) -> dict[str, float | int | None]:
        """Return the number of tokens, TPF, AFP, tau and the number of revisions; None where a figure is undefined.

        Masks, which are left where the response was stopped, are no tokens.
        """
        forwards = len(self.ids)
        is_token = self.ids[-1] >= 0 if forwards else torch.zeros(0, dtype=torch.bool)
        tokens, finalized = int(is_token.sum()), self.finalized[is_token] if forwards else self.finalized
        figures = {
            "tpf": tokens / forwards if forwards else math.nan,
            "afp": finalization_parallelism(finalized),
            "tau": kendall_tau(finalized),
        }
        defined = {name: None if math.isnan(value) else round(value, 4) for name, value in figures.items()}
        revised = count_revisions(self.ids, self.ids[-1])["revised"] if forwards else 0
        return {"tokens": tokens, **defined, "revised": revised}

    def last_confidence(self) -> Tensor:
        """Return the confidence last computed at each position, ``[F, n]``; nan before the first."""
        forwards = torch.arange(len(self.confidence)).unsqueeze(1)
        latest = torch.where(self.confidence.isnan(), -1, forwards).cummax(0).values
        return self.confidence.gather(0, latest.clamp(min=0)).masked_fill(latest < 0, torch.nan)
