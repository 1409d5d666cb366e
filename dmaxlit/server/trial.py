"""A step of a decoder on a block of noise, before it takes part in a forward with others."""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dmaxlit.decoding.base import BlockState, Decoder
from dmaxlit.engine.block_decoder import BlockDecoder
from dmaxlit.engine.inputs import input_embeddings
from dmaxlit.errors import UserError, reason_of


class ForwardSize(NamedTuple):
    """How much larger a decoder makes a forward than that of a block of tokens.

    Args:
        extra_blocks: Versions of the block beside the block itself.
        mixed_tokens: Tokens that the input of a position mixes, the mask token among them; 1 for tokens as they are.
    """

    extra_blocks: int
    mixed_tokens: int


def forward_size(engine: BlockDecoder) -> ForwardSize:
    """Return what a decoder makes of a forward, as the state of a new block tells.

    Args:
        engine: The engine with the decoder.

    Raises:
        UserError: If the decoder fails.
    """
    with _blaming_options(engine.decoder):
        soft = _begin(engine).soft
    return ForwardSize(engine.decoder.extra_blocks, 1 if soft is None else soft.ids.shape[-1])


def try_decoder(engine: BlockDecoder) -> None:
    """Let a decoder begin a block and take a step on a CPU; only then may it turn out that its options are of no use.

    The inputs of both states are computed too, from embeddings of a single number: an id that is none would make a GPU
    useless for the whole process.

    Args:
        engine: The engine with the decoder, of a size that is granted.

    Raises:
        UserError: If the decoder fails, for instance because its options do not fit the vocabulary.
    """
    denoiser, decoder = engine.denoiser, engine.decoder
    versions = () if decoder.extra_blocks == 0 else (1 + decoder.extra_blocks,)
    logits = torch.zeros(1, *versions, denoiser.block_length, denoiser.vocab_size)
    logits[..., denoiser.special.mask_id] = -torch.inf
    logits[..., denoiser.special.vocab_size :] = -torch.inf
    table = torch.ones(denoiser.vocab_size, 1)

    def embed(ids: Tensor) -> Tensor:
        return F.embedding(ids, table)

    with _blaming_options(decoder), torch.no_grad():
        state = _begin(engine)
        input_embeddings(embed, state)
        input_embeddings(embed, decoder.step(state, logits, denoiser.special))


def _begin(engine: BlockDecoder) -> BlockState:
    """Return the state of a new block."""
    special = engine.denoiser.special
    ids = torch.full((1, engine.denoiser.block_length), special.mask_id)
    return engine.decoder.start(ids, torch.ones_like(ids, dtype=torch.bool), special)


@contextlib.contextmanager
def _blaming_options(decoder: Decoder) -> Iterator[None]:
    """Turn any failure of a decoder into a refusal of its options."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        name = type(decoder).__name__
        raise UserError(f"decoder_options: expected some that {name} can use, got {reason_of(error)!r}") from error
