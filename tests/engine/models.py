"""A tiny random model whose predictions are neither uniform nor settled at once."""

import torch

from dmaxlit.backbone.auxiliary import AuxiliarySettings
from dmaxlit.backbone.auxiliary_source import auxiliary_from_settings
from tests.conftest import TINY, make_denoiser

PROMPT_LENGTHS = (3, 8, 25, 0, 33, 5, 17, 7)


def lively_denoiser(
    seed=3, block_length=8, attn_implementation="sdpa", dtype=torch.float64, scale=(5.0, 6.0, 40.0), **config
):
    """Random weights scaled up, so that confidences spread over (0, 1), tokens get revised and blocks converge.

    In float64 by default: batching changes the order of sums, and a comparison decided in the last digits would make
    exact tests depend on the machine. (With the default seeds float32 gives the same tokens and forwards.)
    """
    embedding, body, head = scale
    denoiser = make_denoiser(block_length, attn_implementation, seed, tie_word_embeddings=False, **config)
    with torch.no_grad():
        for name, parameter in denoiser.model.named_parameters():
            if "embed" in name:
                parameter.mul_(embedding)
            elif "lm_head" in name:
                parameter.mul_(head)
            elif parameter.dim() == 2:
                parameter.mul_(body)
    denoiser.model.to(dtype)
    denoiser.auxiliary = auxiliary_like(denoiser, dtype)
    return denoiser


def auxiliary_like(denoiser, dtype=torch.float64, span_length=2):
    """Make a tiny random auxiliary model whose predictions depend on the tokens before them."""
    settings = AuxiliarySettings(config=TINY, span_length=span_length)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        auxiliary = auxiliary_from_settings(settings, denoiser.tokenizer, denoiser.vocab_size, dtype)
    with torch.no_grad():
        for parameter in auxiliary.parameters():
            if parameter.dim() == 2:
                parameter.mul_(5.0)
    return auxiliary.requires_grad_(False)


def make_prompts(lengths: tuple[int, ...] = PROMPT_LENGTHS, seed: int = 40) -> list[list[int]]:
    """Random prompts; mask, EOS and pad tokens among them."""
    generator = torch.Generator().manual_seed(seed)
    prompts: list[list[int]] = [torch.randint(0, 38, (length,), generator=generator).tolist() for length in lengths]
    return prompts
