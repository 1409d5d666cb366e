import pytest
import torch

from dmaxlit import DMaxModule
from dmaxlit.backbone.attention import CausalMask
from dmaxlit.training import chunked_logits
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


def reference(backbone, clean):
    """Compute the loss with a mask for each row, and with all logits at once."""
    ids, length = clean.ids, clean.ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril().expand(len(ids), -1, -1)
    hidden = backbone.hidden(causal, torch.arange(length).expand_as(ids), input_ids=ids)
    supervised = clean.in_loss[:, 1:]
    logits, target = backbone.logits(hidden[:, :-1][supervised]), ids[:, 1:][supervised]
    total = torch.nn.functional.cross_entropy(logits.float(), target, reduction="sum")
    return total, int((logits.argmax(-1) != target).sum())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("most_logits", [2**22, 38 * 4])
def test_loss_and_gradients_do_not_depend_on_chunks(monkeypatch, most_logits, attention):
    backbone = make_denoiser(sharpen=3.0, attn_implementation=attention)
    clean = make_batch(special=backbone.special)
    total, wrong = reference(backbone, clean)
    expected = torch.autograd.grad(total, list(backbone.parameters()))
    monkeypatch.setitem(chunked_logits._MAX_LOGITS, "cpu", most_logits)
    monkeypatch.setattr(chunked_logits, "_FEWEST", 3)
    loss = next_token_loss(backbone, clean)
    gradients = torch.autograd.grad(loss.total, list(backbone.parameters()))
    torch.testing.assert_close(loss.total, total, rtol=1e-6, atol=0)
    assert int(loss.corrupted) == wrong
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_forwards_are_those_of_training_while_training():
    backbone = make_denoiser()
    clean, calls = make_batch(special=backbone.special), []
    backbone.training_hidden = lambda *inputs, **named: calls.append(1) or backbone.hidden(*inputs, **named)
    next_token_loss(backbone, clean)
    assert calls == [1]
    next_token_loss(backbone.eval(), clean)
    assert calls == [1]


def test_the_mask_for_flex_attention_is_the_same():
    mask = CausalMask(20, torch.device("cpu"))
    dense, sparse = mask.dense(), mask.sparse()
    assert dense.shape == (1, 20, 20)
    index = torch.arange(20)
    assert torch.equal(sparse.mask_mod(0, 0, index[:, None], index), dense[0])


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
