"""A step of a decoder on a block of noise, before it takes part in a forward with others."""

import torch

from dmaxlit.engine.block_decoder import BlockDecoder
from dmaxlit.errors import UserError, reason_of


def try_decoder(engine: BlockDecoder) -> None:
    """Let a decoder begin a block and take a step on a CPU; only then may it turn out that its options are of no use.

    Args:
        engine: The engine with the decoder.

    Raises:
        UserError: If the decoder fails, for instance because its options do not fit the vocabulary.
    """
    denoiser, decoder = engine.denoiser, engine.decoder
    length, special = denoiser.block_length, denoiser.special
    ids = torch.full((1, length), special.mask_id)
    versions = () if decoder.extra_blocks == 0 else (1 + decoder.extra_blocks,)
    logits = torch.zeros(1, *versions, length, denoiser.vocab_size)
    logits[..., special.mask_id] = -torch.inf
    logits[..., special.vocab_size :] = -torch.inf
    try:
        with torch.no_grad():
            decoder.step(decoder.start(ids, torch.ones_like(ids, dtype=torch.bool), special), logits, special)
    except UserError:
        raise
    except Exception as error:
        name = type(decoder).__name__
        raise UserError(f"decoder_options: expected some that {name} can use, got {reason_of(error)!r}") from error
