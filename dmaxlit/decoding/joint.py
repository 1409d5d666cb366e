"""Decoders that ask an autoregressive model which tokens go together (CoDiLA, arXiv 2603.20216).

Shapes: R rows, T tokens of a block, n spans of B consecutive tokens, V vocabulary.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from dmaxlit.decoding.base import BlockState, Decoder
from dmaxlit.errors import UserError
from dmaxlit.tokens import SpecialTokens

__all__ = ["Independent", "JointDecoder", "JointModel", "Spans"]

Choice: TypeAlias = Callable[[int, Tensor], Tensor]


class Spans(NamedTuple):
    """Spans of B consecutive tokens, and what the denoiser says of them.

    Args:
        ids: ``[n, B]`` tokens; those at masked positions are ignored.
        masked: ``[n, B]`` bool, positions without a token.
        marginals: ``[n, B, V]`` the denoiser's distribution of each position, 0 for the mask token; ignored at
            positions that have a token.
    """

    ids: Tensor
    masked: Tensor
    marginals: Tensor


class JointModel(Protocol):
    """The distribution of a span's tokens, ``prod_j p(b_j | marginals of the span, b_<j)``."""

    @property
    def span_length(self) -> int:
        """Tokens of a span, B."""

    def decode(self, spans: Spans, choose: Choice) -> Tensor:
        """Return the tokens ``[n, B]`` that are chosen from left to right.

        Args:
            spans: The spans.
            choose: Receives a position j and the logits ``[n, V]`` of its token, given the tokens chosen before it;
                returns the token, ``[n]``.
        """

    def score(self, spans: Spans, tokens: Tensor) -> Tensor:
        """Return the logits ``[n, B, V]`` of each position's token, given ``tokens`` (``[n, B]``) before it."""


class Independent:
    """The product of the marginals: what the denoiser says by itself, for a step without an auxiliary model.

    Args:
        span_length: Tokens of a span.
    """

    def __init__(self, span_length: int = 2) -> None:
        self.span_length = span_length

    def decode(self, spans: Spans, choose: Choice) -> Tensor:
        """Return the tokens that are chosen from the marginals."""
        logits = spans.marginals.log()
        return torch.stack([choose(position, logits[:, position]) for position in range(self.span_length)], 1)

    def score(self, spans: Spans, tokens: Tensor) -> Tensor:
        """Return the logarithms of the marginals."""
        return spans.marginals.log()


class JointDecoder(Decoder):
    """A decoder that asks the model's auxiliary model which tokens go together.

    The engine calls :meth:`step_jointly` with the auxiliary model. :meth:`step` alone, as in a dry run, takes the
    tokens to be independent given the denoiser.
    """

    @abstractmethod
    def step_jointly(self, state: BlockState, logits: Tensor, special: SpecialTokens, joint: JointModel) -> BlockState:
        """Return the state after a forward, without changing the arguments.

        Args:
            state: The blocks that were fed to the denoiser; no row has converged.
            logits: ``[R, T, V]`` the denoiser's logits, ``-inf`` for the mask token and spare ids; with extra blocks
                ``[R, 1 + C, T, V]``, the block's own first.
            special: The special ids.
            joint: The auxiliary model; its span length divides T.
        """

    def step(self, state: BlockState, logits: Tensor, special: SpecialTokens) -> BlockState:
        """Step with the product of the marginals in place of the auxiliary model."""
        length = state.ids.shape[1]
        return self.step_jointly(state, logits, special, Independent(2 if length % 2 == 0 else length))


def check_span_length(span_length: int, block_length: int) -> None:
    """Refuse spans that do not fill a block.

    Raises:
        UserError: If so.
    """
    if block_length % span_length:
        raise UserError(
            f"auxiliary.span_length: expected a divisor of the block length {block_length}, got {span_length}"
        )


def spans_of(state: BlockState, logits: Tensor, span_length: int) -> Spans:
    """Return all spans of blocks, those of a row next to each other.

    Args:
        state: R blocks of T tokens.
        logits: ``[R, T, V]``.
        span_length: Tokens of a span, a divisor of T.
    """
    marginals = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(-1)
    return Spans(
        state.ids.reshape(-1, span_length),
        state.masked.reshape(-1, span_length),
        marginals.reshape(-1, span_length, logits.shape[-1]),
    )
