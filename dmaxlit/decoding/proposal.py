"""What the model proposes for each position: a token, and how sure it is of it."""

from typing import NamedTuple

import torch
from torch import Tensor

from dmaxlit.decoding.base import BlockState, Sampling

__all__ = [
    "Proposal",
    "argmax_proposal",
    "descending_rank",
    "entropy",
    "leftmost",
    "propose",
    "scatter_proposal",
    "score_tokens",
    "token_probability",
]

_PER_UNIT = 1024.0
_PIECE = 2**20  # logits that a CPU works on at a time, so that what comes in between stays in its caches


class Proposal(NamedTuple):
    """What the model proposes for every position, each ``[R, T]`` (or ``[R, 1 + C, T]``).

    Args:
        tokens: The proposed tokens.
        confidence: Their probabilities.
        log_odds: ``log(p / (1 - p))`` of them. Positions are ordered by this: the probabilities of a sure model are
            all rounded to 1, where their order would be noise.
    """

    tokens: Tensor
    confidence: Tensor
    log_odds: Tensor


def propose(state: BlockState, logits: Tensor, where: Tensor | None = None) -> Proposal:
    """The token of every position: the most probable one, or one drawn as ``state.sampling`` says.

    The confidence is the token's probability under the model itself, whatever the temperature.

    Args:
        state: The blocks.
        logits: ``[R, T, V]`` or ``[R, 1 + C, T, V]``.
        where: ``[R, T]`` bool, the positions that are asked for, if not all: the others get token 0 with confidence 0.
    """
    if where is None:
        return (
            argmax_proposal(logits) if state.sampling is None else score_tokens(logits, _draw(logits, state.sampling))
        )
    if state.sampling is None and logits.device.type == "cpu":
        return scatter_proposal(argmax_proposal(logits[where]), where)
    # Picking positions would wait for a GPU.
    tokens, confidence, log_odds = propose(state, logits)
    nowhere = ~where
    return Proposal(
        tokens.masked_fill(nowhere, 0),
        confidence.masked_fill(nowhere, 0.0),
        log_odds.masked_fill(nowhere, -torch.inf),
    )


def scatter_proposal(proposal: Proposal, where: Tensor) -> Proposal:
    """A proposal of n positions, put where they are; the others get token 0 with confidence 0.

    Args:
        proposal: Each ``[n]``.
        where: ``[R, T]`` bool with n True values.
    """
    tokens, confidence, log_odds = proposal
    blank = torch.full_like(where, -torch.inf, dtype=log_odds.dtype)
    return Proposal(
        torch.zeros_like(where, dtype=torch.long).index_put_((where,), tokens),
        torch.zeros_like(blank).index_put_((where,), confidence),
        blank.index_put_((where,), log_odds),
    )


def argmax_proposal(logits: Tensor) -> Proposal:
    """The most probable token of every position. A tie goes to the smallest id.

    Args:
        logits: ``[..., V]``.
    """
    if logits.device.type != "cpu":
        return score_tokens(logits, logits.argmax(-1))
    if logits.numel() <= _PIECE:
        return _most_probable(logits)
    # Whole rows of logits, a piece at a time.
    chunks = torch.split(logits.flatten(0, -2), max(_PIECE // logits.shape[-1], 1))
    parts = zip(*(_most_probable(piece) for piece in chunks), strict=True)
    return Proposal(*(torch.cat(part).view(logits.shape[:-1]) for part in parts))


def _most_probable(logits: Tensor) -> Proposal:
    # As proposal_of(logits, logits.argmax(-1)), for which a CPU takes twice as long.
    highest, tokens = logits.max(-1, keepdim=True)
    others = (_precise(logits) - highest).exp_().scatter_(-1, tokens, 0.0).sum(-1)
    if not (others > 0).all():  # too small to be told from 0, or not numbers
        return score_tokens(logits, tokens.squeeze(-1))
    log_odds = -others.log()
    return Proposal(tokens.squeeze(-1), log_odds.sigmoid(), log_odds)


def score_tokens(logits: Tensor, tokens: Tensor) -> Proposal:
    """The given tokens as a proposal, worked out in at least float32.

    Args:
        logits: ``[..., V]``.
        tokens: ``[...]`` ids.
    """
    logits, index = _precise(logits), tokens.unsqueeze(-1)
    log_odds = logits.gather(-1, index).squeeze(-1) - logits.scatter(-1, index, -torch.inf).logsumexp(-1)
    # An impossible token among impossible ones: -inf - -inf.
    log_odds = log_odds.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    return Proposal(tokens, log_odds.sigmoid(), log_odds)


def token_probability(logits: Tensor, tokens: Tensor) -> Tensor:
    """Probability of a token at each position, ``[...]``. Arguments as in :func:`score_tokens`."""
    return score_tokens(logits, tokens).confidence


def entropy(logits: Tensor) -> Tensor:
    """Entropy of each position's distribution in nats, ``[...]``.

    Args:
        logits: ``[..., V]``; ``-inf`` where a token is impossible.
    """
    log_p = _precise(logits).log_softmax(-1)
    return -(log_p.exp() * log_p.clamp_min(torch.finfo(log_p.dtype).min)).sum(-1)


def _draw(logits: Tensor, sampling: Sampling) -> Tensor:
    """Tokens drawn from the tempered nucleus by inverting its distribution function, most probable token first.

    That order makes the token depend little on small changes of the distribution: a confident position takes its
    top-1 token for nearly every random number.
    """
    rows = (-1, *[1] * (logits.dim() - 1))
    draws = sampling.draws if logits.dim() == 3 else sampling.draws.unsqueeze(1)
    logits = _precise(logits)
    tempered = (logits - logits.amax(-1, keepdim=True)) / sampling.temperature.view(rows)
    probability, order = tempered.softmax(-1).sort(dim=-1, descending=True, stable=True)
    total = probability.cumsum(-1)
    # A rounded sum may fall short of top_p = 1: impossible tokens are kept out by name.
    nucleus = ((total - probability) < sampling.top_p.view(rows)) & (probability > 0)
    last = nucleus.sum(-1, keepdim=True) - 1
    below = (total <= draws.unsqueeze(-1) * total.gather(-1, last)) & nucleus
    return order.gather(-1, below.sum(-1, keepdim=True).clamp(max=last)).squeeze(-1)


def descending_rank(score: Tensor) -> Tensor:
    """Place of each entry in its row in descending order, ``[R, T]``; ties in order of position.

    Scores are rounded to about a thousandth first: positions that are alike, as all masks of a block without a prompt
    are, must not be ordered by rounding errors, which depend on the batch.
    """
    order = torch.argsort((score * _PER_UNIT).round(), dim=1, descending=True, stable=True)
    return torch.argsort(order, dim=1)


def leftmost(positions: Tensor) -> Tensor:
    """Only the leftmost True of each row, ``[R, T]``; a row without one stays without."""
    return positions & (positions.cumsum(1) == 1)


def _precise(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
