import pytest
import torch

from dmaxlit import UserError
from dmaxlit.backbone import block_diffusion_mask, to_model_mask


def slow_rule(q_block, k_block, q_noisy, k_noisy):
    """The rule in words, one pair at a time."""
    if q_noisy and k_noisy:
        return q_block == k_block
    if q_noisy:
        return k_block < q_block
    if k_noisy:
        return False
    return k_block <= q_block


def test_every_pair_follows_the_rule():
    blocks = torch.tensor([0, 0, 1, 1, 2, 0, 0, 1, 1, 2])
    noisy = torch.arange(10) >= 5
    allowed = block_diffusion_mask(blocks, blocks, noisy, noisy)
    for q in range(10):
        for k in range(10):
            assert bool(allowed[q, k]) == slow_rule(blocks[q], blocks[k], noisy[q], noisy[k])


def test_block_length_one_without_noise_is_causal():
    blocks = torch.arange(6)
    clean = torch.zeros(6, dtype=torch.bool)
    assert torch.equal(block_diffusion_mask(blocks, blocks, clean, clean), torch.ones(6, 6).tril().bool())


def test_eager_gets_an_additive_mask_and_sdpa_a_boolean_one():
    allowed = torch.tensor([[[True, False]]])
    assert to_model_mask(allowed, "sdpa", torch.float32).dtype == torch.bool
    added = to_model_mask(allowed, "eager", torch.float32)
    assert added[0, 0, 0].tolist() == [0.0, torch.finfo(torch.float32).min]


def test_another_implementation_is_refused():
    with pytest.raises(
        UserError, match="attn_implementation: expected one of sdpa, eager, flex_attention, got 'flash'"
    ):
        to_model_mask(torch.ones(1, 1, 1, dtype=torch.bool), "flash", torch.float32)
