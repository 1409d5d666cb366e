import pytest
import torch

from dmaxlit import DMaxModule
from dmaxlit.training.next_token import next_token_loss
from tests.conftest import make_batch, make_denoiser


def test_the_autoregressive_loss_is_the_model_s_own():
    module = DMaxModule(make_denoiser(sharpen=3.0))
    clean = make_batch(special=module.special)
    clean.roles[:] = 2  # no padding, all response
    ids = clean.ids.clamp(max=34)
    clean = type(clean)(ids, clean.roles, clean.block_length, clean.special)
    loss = next_token_loss(module.backbone, clean)
    logits = module.backbone.model(ids).logits[:, :-1].clone()
    logits[..., module.special.mask_id] = -torch.inf
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
    torch.testing.assert_close(loss.total, expected)
    assert int(loss.supervised) == ids[:, 1:].numel()


def test_prompt_and_padding_are_read_but_not_learned():
    module = DMaxModule(make_denoiser(sharpen=3.0))
    clean = make_batch(special=module.special)
    loss = next_token_loss(module.backbone, clean)
    expected = 0.0
    for ids, learned in zip(clean.ids, clean.in_loss, strict=True):
        for i in range(1, len(ids)):
            if learned[i]:
                logits = module.backbone.model(ids[None, :i]).logits[0, -1].clone()
                logits[module.special.mask_id] = -torch.inf
                expected += torch.nn.functional.cross_entropy(logits, ids[i]).item()
    assert loss.total.item() == pytest.approx(expected, rel=1e-5)
    assert int(loss.supervised) == int(clean.in_loss[:, 1:].sum()) < clean.ids.numel()
