"""What every position of a sequence is, and the special ids: the one place that knows."""

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dmaxlit.errors import UserError

__all__ = ["CleanBatch", "Role", "SpecialIds", "block_index"]


class Role(IntEnum):
    """What a position is. Roles are data that travels with the ids; they are never guessed from the ids."""

    PAD = 0
    PROMPT = 1
    RESPONSE = 2


@dataclass(frozen=True)
class SpecialIds:
    """The token ids with a meaning of their own.

    Args:
        mask: Stands for a token not decided yet.
        eos: Ends a response.
        pad: Fills rows of a batch; never attended to.
        vocab_size: Number of ids the tokenizer can produce; random tokens are drawn below it.
    """

    mask: int
    eos: int
    pad: int
    vocab_size: int

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> "SpecialIds":
        """Read the ids off a tokenizer; padding falls back to EOS.

        Raises:
            UserError: If the tokenizer has no mask or no EOS token.
        """
        mask, eos, pad = tokenizer.mask_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
        for name, value in (("mask", mask), ("EOS", eos)):
            if value is None:
                raise UserError(f"tokenizer: expected a {name} token, found none in {tokenizer.name_or_path!r}")
        return cls(mask=mask, eos=eos, pad=eos if pad is None else pad, vocab_size=len(tokenizer))


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
    special: SpecialIds
    step: int = 0

    @property
    def response(self) -> Tensor:
        """``[batch, length]``, True where a token belongs to the response (supervised EOS included)."""
        return self.roles == Role.RESPONSE

    def with_masks(self, where: Tensor) -> Tensor:
        """The ids with the mask token at the given positions (``[batch, length]`` bool)."""
        return torch.where(where, self.special.mask, self.ids)

    @property
    def blocks(self) -> Tensor:
        """``[length]`` block number of each position."""
        return block_index(self.ids.shape[1], self.block_length, self.ids.device)
