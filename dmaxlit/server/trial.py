"""A step of a decoder on a block of noise, before it takes part in a forward with others."""

import torch

from dmaxlit.engine.block_decoder import BlockDecoder


def try_decoder(engine: BlockDecoder) -> None:
    """Let a decoder begin a block and take a step on a CPU, for it may only then refuse its options.

    Args:
        engine: The engine with the decoder.

    Raises:
        UserError: If the decoder's options do not fit the model, for instance its vocabulary.
    """
    denoiser, decoder = engine.denoiser, engine.decoder
    length, special = denoiser.block_length, denoiser.special
    ids = torch.full((1, length), special.mask_id)
    with torch.no_grad():
        state = decoder.start(ids, torch.ones_like(ids, dtype=torch.bool), special)
        versions = 1 + decoder.extra_blocks
        shape = (1, length) if versions == 1 else (1, versions, length)
        logits = torch.zeros(*shape, denoiser.vocab_size)
        logits[..., special.mask_id] = -torch.inf
        decoder.step(state, logits, special)
