"""What every position of a sequence is, and the special ids: the one place that knows."""

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from dmaxlit.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["CleanBatch", "Role", "SoftTokens", "SpecialTokens", "block_index"]


class Role(IntEnum):
    """What a position is. Roles are data that travels with the ids; they are never guessed from the ids."""

    PAD = 0
    PROMPT = 1
    RESPONSE = 2


@dataclass(frozen=True)
class SpecialTokens:
    """The token ids with a meaning of their own.

    Args:
        mask_id: Stands for a token not decided yet.
        eos_id: Ends a response.
        pad_id: Fills rows of a batch; never attended to.
        vocab_size: Number of ids the tokenizer can produce; random tokens are drawn below it.
    """

    mask_id: int
    eos_id: int
    pad_id: int
    vocab_size: int

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
        return cls(mask_id=mask, eos_id=eos, pad_id=eos if pad is None else pad, vocab_size=len(tokenizer))


def block_index(length: int, block_length: int, device: torch.device | str | None = None) -> Tensor:
    """Block number of each position, ``[length]``; the grid starts at position 0 of the sequence, prompt included."""
    return torch.arange(length, device=device) // block_length


@dataclass(frozen=True)
class CleanBatch:
    """Clean sequences ``x_0`` and what is known of them: what a noise strategy works on.

    Args:
        ids: ``[batch, length]`` token ids.
        roles: ``[batch, length]`` values of :class:`Role`.
        block_length: Length of the blocks of the grid.
        special: The special ids.
        step: Optimiser step this batch belongs to (0 before training).
    """

    ids: Tensor
    roles: Tensor
    block_length: int
    special: SpecialTokens
    step: int = 0

    @property
    def response(self) -> Tensor:
        """``[batch, length]``, True where a token belongs to the response (supervised EOS included)."""
        return self.roles == Role.RESPONSE

    def with_masks(self, where: Tensor) -> Tensor:
        """The ids with the mask token at the given positions (``[batch, length]`` bool)."""
        return torch.where(where, self.special.mask_id, self.ids)

    @property
    def blocks(self) -> Tensor:
        """``[length]`` block number of each position."""
        return block_index(self.ids.shape[1], self.block_length, self.ids.device)


@dataclass(frozen=True)
class SoftTokens:
    """Inputs of a forward that are mixtures of tokens; see :func:`hybrid_embedding`.

    Args:
        ids: ``[R, T, K]`` tokens that are mixed; the mask token may be one of them.
        weights: ``[R, T, K]`` their shares, each at least 0, with sum 1.
        where: ``[R, T]`` bool, positions whose input is the mixture. Elsewhere it is the canvas's token.
    """

    ids: Tensor
    weights: Tensor
    where: Tensor

    @classmethod
    def with_mask(cls, tokens: Tensor, confidence: Tensor, mask: int, where: Tensor) -> "SoftTokens":
        """Tokens at their probabilities, and the mask token with what is left (Eq. 8).

        Args:
            tokens: ``[R, T, K]`` ids.
            confidence: ``[R, T, K]`` probabilities, with sum at most 1.
            mask: Id of the mask token.
            where: ``[R, T]`` bool, as above.
        """
        masks = torch.full_like(tokens[..., :1], mask)
        rest = (1 - confidence.sum(-1, keepdim=True)).clamp_min(0)
        return cls(torch.cat([tokens, masks], -1), torch.cat([confidence, rest], -1), where)

    def after(self, length: int) -> "SoftTokens":
        """The same behind ``length`` positions without mixtures."""
        return SoftTokens(
            F.pad(self.ids, (0, 0, length, 0)), F.pad(self.weights, (0, 0, length, 0)), F.pad(self.where, (length, 0))
        )
