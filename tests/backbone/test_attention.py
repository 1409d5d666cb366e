import pytest
import torch

from dmaxlit import UserError
from dmaxlit.backbone import block_diffusion_mask, to_model_mask
from dmaxlit.backbone.attention import may_attend
from tests.conftest import make_denoiser


def slow_rule(q_block, k_block, q_noisy, k_noisy):
    """Apply the rule to one pair at a time."""
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


def test_the_rule_holds_elementwise():
    pairs = torch.cartesian_prod(torch.arange(3), torch.arange(3), torch.arange(2), torch.arange(2))
    allowed = may_attend(pairs[:, 0], pairs[:, 1], pairs[:, 2].bool(), pairs[:, 3].bool())
    assert allowed.tolist() == [bool(slow_rule(*pair)) for pair in pairs.tolist()]


def test_block_length_one_without_noise_is_causal():
    blocks = torch.arange(6)
    clean = torch.zeros(6, dtype=torch.bool)
    assert torch.equal(block_diffusion_mask(blocks, blocks, clean, clean), torch.ones(6, 6).tril().bool())


def test_what_is_added_to_scores_on_a_cpu():
    allowed = torch.tensor([[[True, False]]])
    for attention, never in (("sdpa", -torch.inf), ("eager", torch.finfo(torch.float32).min)):
        assert to_model_mask(allowed, attention, torch.float32)[0, 0, 0].tolist() == [0.0, never]


def test_elsewhere_sdpa_gets_booleans():
    assert (
        to_model_mask(torch.ones(1, 2, 3, dtype=torch.bool, device="meta"), "sdpa", torch.float32).dtype == torch.bool
    )


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_mask_for_all_queries_of_a_row_is_one_for_each(attention, autocast):
    denoiser = make_denoiser(attn_implementation=attention).eval()
    ids, position = torch.randint(0, 30, (2, 8)), torch.arange(8).expand(2, -1)
    allowed = torch.arange(8) < torch.tensor([[5], [8]])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        shared = denoiser.hidden(allowed[:, None], position, input_ids=ids)
        separate = denoiser.hidden(allowed[:, None].expand(-1, 8, -1), position, input_ids=ids)
        assert torch.equal(shared, separate)
        changed = denoiser.hidden(allowed[:, None], position, input_ids=ids.index_fill(1, torch.tensor([6]), 31))
    assert torch.equal(changed[0, :5], shared[0, :5])
    assert not torch.equal(changed[1, :5], shared[1, :5])


def test_another_implementation_is_refused():
    with pytest.raises(
        UserError, match="attn_implementation: expected one of sdpa, eager, flex_attention, got 'flash'"
    ):
        to_model_mask(torch.ones(1, 1, 1, dtype=torch.bool), "flash", torch.float32)


def test_a_model_turns_the_attention_of_cudnn_off():
    enabled = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        torch.backends.cuda.enable_cudnn_sdp(True)
        make_denoiser()
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(enabled)
