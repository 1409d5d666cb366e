"""Token sequences: special ids, the role of each position, clean batches and soft tokens."""

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from dmaxlit.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Role(IntEnum):
    """The role of a position. Roles accompany the ids; they are never inferred from the ids.

    ``FILL`` is EOS behind the supervised ones, up to the end of the block. It is attended to and corrupted like the
    response, since decoding begins with a whole block of masks and must not learn the response's length from the number
    of masks; but it has no part in the loss.
    """

    PAD = 0
    PROMPT = 1
    RESPONSE = 2
    FILL = 3


@dataclass(frozen=True)
class SpecialTokens:
    """The special token ids.

    Args:
        mask_id: A token that is not decided yet.
        eos_id: The end of a response.
        pad_id: Padding of a batch; never attended to.
        vocab_size: One more than the highest id of the tokenizer. A model may have more rows and logits than this (V),
            as padded tables do: those ids are never predicted.
        gaps: Ranges of ids below ``vocab_size`` that the tokenizer leaves out; they are never predicted either.
    """

    mask_id: int
    eos_id: int
    pad_id: int
    vocab_size: int
    gaps: tuple[range, ...] = ()

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerBase") -> "SpecialTokens":
        """Read the ids off a tokenizer; padding falls back to EOS.

        Raises:
            UserError: If the tokenizer has no mask or no EOS token.
        """
        mask, eos, pad = tokenizer.mask_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
        for name, value in (("mask", mask), ("EOS", eos)):
            if value is None:
                raise UserError(f"tokenizer: expected a {name} token, found none in {tokenizer.name_or_path!r}")
        ids = sorted(set(tokenizer.get_vocab().values()))
        gaps = tuple(range(last + 1, first) for last, first in pairwise([-1, *ids]) if first > last + 1)
        return cls(mask, eos, eos if pad is None else pad, ids[-1] + 1, gaps)

    def exclude(self, logits: Tensor) -> None:
        """Set the logits ``[..., V]`` of the mask token and of ids that the tokenizer lacks to ``-inf``, in place."""
        logits.select(-1, self.mask_id).fill_(-torch.inf)
        for gap in self.gaps:
            logits[..., gap.start : gap.stop].fill_(-torch.inf)
        if logits.shape[-1] > self.vocab_size:
            logits[..., self.vocab_size :].fill_(-torch.inf)

    @property
    def num_predictable(self) -> int:
        """Number of ids that can be predicted: those of the tokenizer without the mask token."""
        return self.vocab_size - 1 - sum(map(len, self.gaps))

    def predictable(self, index: Tensor) -> Tensor:
        """Return the ids ``[...]`` that have these numbers among all that can be predicted, counted from the lowest.

        Args:
            index: ``[...]`` from 0 to ``num_predictable - 1``; uniform ones give tokens uniform over the vocabulary.
        """
        left_out = sorted((*self.gaps, range(self.mask_id, self.mask_id + 1)), key=lambda ids: ids.start)
        for ids in left_out:
            index = index + len(ids) * (index >= ids.start)
        return index


def num_ids(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return one more than the highest id of a tokenizer, which is above its length where it leaves ids out.

    It reads the whole vocabulary.
    """
    return max(tokenizer.get_vocab().values()) + 1


def block_index(length: int, block_length: int, device: torch.device | str | None = None) -> Tensor:
    """Return each position's block number, ``[length]``; the grid starts at the first position of the prompt."""
    return torch.arange(length, device=device) // block_length


@dataclass(frozen=True)
class CleanBatch:
    """Clean sequences ``x_0`` and their roles: the input of a noise strategy.

    Args:
        ids: ``[batch, length]`` token ids.
        roles: ``[batch, length]`` values of :class:`Role`.
        block_length: Number of tokens in a block of the grid.
        special: The special ids.
        step: Optimiser step that this batch belongs to (0 before training).
    """

    ids: Tensor
    roles: Tensor
    block_length: int
    special: SpecialTokens
    step: int = 0

    @cached_property
    def response(self) -> Tensor:
        """``[batch, length]``, True where a token may be corrupted and predicted: response, EOS and fill."""
        return (self.roles == Role.RESPONSE) | (self.roles == Role.FILL)

    @cached_property
    def in_loss(self) -> Tensor:
        """``[batch, length]``, True where a prediction has a part in the loss: the response without the fill."""
        return self.roles == Role.RESPONSE

    def with_masks(self, positions: Tensor) -> Tensor:
        """Return the ids with the mask token at some positions: ``x_t`` for corrupted ``positions``.

        Args:
            positions: ``[batch, length]`` bool.
        """
        return torch.where(positions, self.special.mask_id, self.ids)

    @property
    def num_blocks(self) -> int:
        """Number of blocks of a sequence."""
        return -(-self.ids.shape[1] // self.block_length)

    @property
    def blocks(self) -> Tensor:
        """``[length]`` block number of each position."""
        return block_index(self.ids.shape[1], self.block_length, self.ids.device)


@dataclass(frozen=True)
class SoftTokens:
    """Mixtures of tokens as inputs of a forward pass; see :func:`~dmaxlit.backbone.soft_embedding.hybrid_embedding`.

    Args:
        ids: ``[R, T, K]`` tokens of each mixture, of the vocabulary also where they are not fed; the mask token may be
            one of them.
        weights: ``[R, T, K]`` their weights, each at least 0, with sum 1.
        where: ``[R, T]`` bool, positions whose input is the mixture. Elsewhere it is the sequence's token.
        slerp: Mix the last token with the others along the sphere instead of along a line.
    """

    ids: Tensor
    weights: Tensor
    where: Tensor
    slerp: bool = False

    @classmethod
    def with_mask(
        cls, tokens: Tensor, confidence: Tensor, mask: int, where: Tensor, slerp: bool = False
    ) -> "SoftTokens":
        """Mix tokens, weighted by their probabilities, with the mask token, which takes the rest (DMax, Eq. 8).

        Args:
            tokens: ``[R, T, K]`` ids.
            confidence: ``[R, T, K]`` probabilities, with sum at most 1.
            mask: Id of the mask token.
            where: ``[R, T]`` bool, positions whose input is the mixture.
            slerp: Mix the mask with the tokens along the sphere.
        """
        masks = torch.full_like(tokens[..., :1], mask)
        # A sum may be rounded to more than 1.
        rest = 1 - confidence if confidence.shape[-1] == 1 else (1 - confidence.sum(-1, keepdim=True)).clamp_min(0)
        return cls(torch.cat([tokens, masks], -1), torch.cat([confidence, rest], -1), where, slerp)

    def after(self, length: int) -> "SoftTokens":
        """Return the same soft tokens after ``length`` positions without any."""
        return SoftTokens(
            F.pad(self.ids, (0, 0, length, 0)),
            F.pad(self.weights, (0, 0, length, 0)),
            F.pad(self.where, (length, 0)),
            self.slerp,
        )
