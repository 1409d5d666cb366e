"""The model's proposal for each position: a token and its confidence."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from dmaxlit.decoding.base import BlockState, Sampling

__all__ = ["Proposal", "propose"]

_RANK_STEPS = 1024.0  # per unit of log odds; closer scores are ties
_FINITE = 1e30  # clamps scores, so that excluded positions (-inf) always rank last
_CHUNK = 2**20  # logits a CPU processes at a time
_FEW = 2**13  # logits below which a CPU draws tokens at all positions as fast as at some


class Proposal(NamedTuple):
    """The model's proposal for every position, each ``[R, T]`` (or ``[R, 1 + C, T]``).

    Args:
        tokens: The proposed tokens.
        confidence: Their probabilities.
        log_odds: Their ``log(p / (1 - p))``. Positions are ranked by these: the probabilities of a confident model
            all round to 1, where their order would be noise.
    """

    tokens: Tensor
    confidence: Tensor
    log_odds: Tensor


def propose(state: BlockState, logits: Tensor, where: Tensor | None = None) -> Proposal:
    """Return a token for every position: the most probable one, or one drawn according to ``state.sampling``.

    The confidence is the token's probability under the model itself, whatever the temperature.

    Args:
        state: The blocks.
        logits: ``[R, T, V]`` or ``[R, 1 + C, T, V]``.
        where: ``[R, T]`` bool, the positions to propose for; the others get token 0 with confidence 0. Default: all.
    """
    if where is None:
        return (
            argmax_proposal(logits) if state.sampling is None else score_tokens(logits, _draw(logits, state.sampling))
        )
    # Indexing by a mask would synchronise with a GPU.
    if logits.device.type != "cpu" or (state.sampling is not None and logits.numel() < _FEW):
        tokens, confidence, log_odds = propose(state, logits)
    elif state.sampling is None:
        return scatter_proposal(argmax_proposal(logits[where]), where)
    else:  # to draw a token takes a sort of the vocabulary
        drawn = _draw(logits[where], state.sampling.at(where))
        tokens, confidence, log_odds = score_tokens(logits, drawn.new_zeros(where.shape).masked_scatter_(where, drawn))
    excluded = ~where
    return Proposal(
        tokens.masked_fill(excluded, 0),
        confidence.masked_fill(excluded, 0.0),
        log_odds.masked_fill(excluded, -torch.inf),
    )


def scatter_proposal(proposal: Proposal, where: Tensor) -> Proposal:
    """Scatter a proposal of n positions into ``[R, T]``; the other positions get token 0 with confidence 0.

    Args:
        proposal: Each ``[n]``.
        where: ``[R, T]`` bool with n True values.
    """
    blanks = (0, 0.0, -torch.inf)
    return Proposal(
        *(
            column.new_full(where.shape, blank).masked_scatter_(where, column)
            for column, blank in zip(proposal, blanks, strict=True)
        )
    )


def argmax_proposal(logits: Tensor) -> Proposal:
    """Propose the most probable token of every position. A tie goes to the smallest id.

    Args:
        logits: ``[..., V]``.
    """
    if logits.device.type != "cpu":
        return score_tokens(logits, logits.argmax(-1))
    return Proposal(*_in_chunks(_argmax_on_cpu, logits))


def _argmax_on_cpu(logits: Tensor) -> Proposal:
    """Compute ``score_tokens(logits, logits.argmax(-1))`` in half the time."""
    highest, tokens = logits.max(-1, keepdim=True)
    others = (_at_least_float32(logits) - highest).exp_().scatter_(-1, tokens, 0.0).sum(-1)
    if others.numel() and not others.min().item() > 0:  # underflow, or nan
        return score_tokens(logits, tokens.squeeze(-1))
    log_odds = others.log_().neg_()
    return Proposal(tokens.squeeze(-1), log_odds.sigmoid(), log_odds)


def score_tokens(logits: Tensor, tokens: Tensor) -> Proposal:
    """Return the given tokens as a proposal, computed in at least float32.

    Args:
        logits: ``[..., V]``.
        tokens: ``[...]`` ids.
    """
    (log_odds,) = _in_chunks(_log_odds, logits, tokens)
    return Proposal(tokens, log_odds.sigmoid(), log_odds)


def _log_odds(logits: Tensor, tokens: Tensor) -> tuple[Tensor]:
    logits, index = _at_least_float32(logits), tokens.unsqueeze(-1)
    log_odds = logits.gather(-1, index).squeeze(-1) - logits.scatter(-1, index, -torch.inf).logsumexp(-1)
    # An impossible token among impossible ones gives -inf - -inf.
    return (log_odds.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf),)


def token_probability(logits: Tensor, tokens: Tensor) -> Tensor:
    """Compute the probability of a token at each position, ``[...]``. Arguments as in :func:`score_tokens`."""
    return score_tokens(logits, tokens).confidence


def entropy(logits: Tensor) -> Tensor:
    """Compute the entropy of each position's distribution in nats, ``[...]``, in at least float32.

    Args:
        logits: ``[..., V]``; ``-inf`` for impossible tokens, which contribute exactly 0.
    """
    (nats,) = _in_chunks(_entropy, logits)
    return nats


def _entropy(logits: Tensor) -> tuple[Tensor]:
    log_p = _at_least_float32(logits).log_softmax(-1)
    return (-(log_p.exp() * log_p.clamp_min(torch.finfo(log_p.dtype).min)).sum(-1),)


def confidence_rank(proposal: Proposal, positions: Tensor, ascending: bool = False) -> Tensor:
    """Rank the given positions of each row by confidence, ``[R, T]`` from 0; all other positions rank after them.

    Args:
        proposal: The confidences.
        positions: ``[R, T]`` bool, the positions to rank.
        ascending: Rank the least confident position first instead of the most confident one.
    """
    score = proposal.log_odds.clamp(-_FINITE, _FINITE)
    return descending_rank(torch.where(positions, -score if ascending else score, -torch.inf))


def descending_rank(score: Tensor) -> Tensor:
    """Rank the entries of each row in descending order, ``[R, T]`` from 0; ties in order of position.

    Scores are rounded to about a thousandth first. Positions that are alike, such as all masks of a block without a
    prompt, must not be ordered by rounding errors, which depend on the batch.
    """
    order = torch.argsort(_rounded(score), dim=1, descending=True, stable=True)
    ranks = torch.arange(order.shape[1], device=order.device)
    return torch.empty_like(order).scatter_(1, order, ranks.expand_as(order))


def most_confident(proposal: Proposal, positions: Tensor) -> Tensor:
    """Keep only the position with :func:`confidence_rank` 0 of each row, ``[R, T]``; a row without any stays all False.

    Args:
        proposal: The confidences.
        positions: ``[R, T]`` bool, the positions to choose from.
    """
    score = torch.where(positions, proposal.log_odds.clamp(-_FINITE, _FINITE), -torch.inf)
    best = _rounded(score).argmax(1, keepdim=True)  # the first of equal ones
    return torch.zeros_like(positions).scatter_(1, best, True) & positions


def _rounded(score: Tensor) -> Tensor:
    return (score * _RANK_STEPS).round()


def _draw(logits: Tensor, sampling: Sampling) -> Tensor:
    """Draw tokens from the tempered nucleus by inverting its distribution function, most probable token first.

    In that order the token depends little on small changes of the distribution: a confident position takes its top-1
    token for nearly every random number.
    """
    rows = (-1, *[1] * (logits.dim() - 2))
    draws = sampling.draws if logits.dim() < 4 else sampling.draws.unsqueeze(1)
    options = (draws, sampling.temperature.view(rows), sampling.top_p.view(rows))
    (tokens,) = _in_chunks(_invert, logits, *(option.expand(logits.shape[:-1]) for option in options))
    return tokens


def _invert(logits: Tensor, draws: Tensor, temperature: Tensor, top_p: Tensor) -> tuple[Tensor]:
    """Return the tokens that :func:`_draw` does, all else ``[...]`` for logits ``[..., V]``."""
    logits = _at_least_float32(logits)
    # Sort the tempered distribution.
    tempered = (logits - logits.amax(-1, keepdim=True)) / temperature.unsqueeze(-1)
    probability, order = tempered.softmax(-1).sort(dim=-1, descending=True, stable=True)
    total = probability.cumsum(-1)
    # Cut off the nucleus. A rounded sum may fall short of top_p = 1, so impossible tokens are excluded explicitly.
    nucleus = ((total - probability) < top_p.unsqueeze(-1)) & (probability > 0)
    last = (nucleus.sum(-1, keepdim=True) - 1).clamp_min(0)  # the most probable token where top_p rounds to 0
    # Invert its distribution function.
    below = (total <= draws.unsqueeze(-1) * total.gather(-1, last)) & nucleus
    return (order.gather(-1, below.sum(-1, keepdim=True).clamp(max=last)).squeeze(-1),)


def _in_chunks(compute: Callable[..., Iterable[Tensor]], logits: Tensor, *options: Tensor) -> list[Tensor]:
    """Compute columns ``[...]`` of logits ``[..., V]`` and options ``[...]``; on a CPU for a few positions at a time.

    Intermediate results then stay in its caches, and take no multiple of the logits' memory.

    Args:
        compute: Returns the columns; a position's depend on its own logits and options alone.
        logits: The logits.
        options: Further arguments of each position.
    """
    if logits.device.type != "cpu" or logits.numel() <= _CHUNK:
        return list(compute(logits, *options))
    size = max(_CHUNK // logits.shape[-1], 1)
    parts = [torch.split(logits.flatten(0, -2), size), *(torch.split(option.flatten(), size) for option in options)]
    columns = zip(*(compute(*chunk) for chunk in zip(*parts, strict=True)), strict=True)
    return [torch.cat(column).view(logits.shape[:-1]) for column in columns]


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
