"""A table with more rows than the tokenizer has ids, as published checkpoints have: none of these ids is predicted."""

import pytest
import torch
from transformers import AutoTokenizer

from dmaxlit import DMaxModule, UserError
from dmaxlit.backbone.auxiliary import AuxiliarySettings
from dmaxlit.backbone.probe import check_behavior
from dmaxlit.decoding import DECODERS
from dmaxlit.noise import MaskedNoise, OnPolicyNoise
from dmaxlit.randomness import RowGenerator
from dmaxlit.tokens import SpecialTokens
from tests.conftest import TINY, make_batch, make_denoiser

IDS, ROWS = 38, 48


@pytest.fixture
def denoiser():
    """Return a denoiser whose own head would predict spare ids everywhere."""
    denoiser = make_denoiser(vocab_size=ROWS, tie_word_embeddings=False)
    head = denoiser.model.get_output_embeddings()
    with torch.no_grad():
        head.weight[IDS:] = 100 * head.weight[:1].sign()
        head.weight[IDS + 1 :] *= -1
    return denoiser


def test_logits_are_finite_for_the_tokenizer_s_ids_but_the_mask(denoiser):
    hidden = torch.randn(5, 32)
    logits = denoiser.logits(hidden)
    assert logits.shape == (5, ROWS)
    possible = torch.arange(ROWS) < IDS
    possible[denoiser.special.mask_id] = False
    own = denoiser.model.get_output_embeddings()(hidden)
    assert (own.argmax(-1) >= IDS).all()
    assert torch.equal(logits[:, possible], own[:, possible])
    assert (logits[:, ~possible] == -torch.inf).all()


class Own(OnPolicyNoise):
    """OPUT, whose views are checked."""


@pytest.mark.parametrize("noise", [Own(level=1.0), Own(level=1.0, rollout="argmax"), MaskedNoise(level=0.5)])
def test_training_has_finite_losses_and_draws_no_spare_id(denoiser, noise):
    module = DMaxModule(denoiser, noise)
    losses = module.view_losses(make_batch(special=denoiser.special), RowGenerator(0, [0, 1, 2]))
    total = torch.stack([loss.total for loss in losses]).sum()
    total.backward()
    assert total.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters() if parameter.grad is not None)
    assert not denoiser.model.get_output_embeddings().weight.grad[IDS:].any()


@pytest.mark.parametrize("name", [name for name in DECODERS if "codila" not in name])
@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_no_decoder_generates_a_spare_id(denoiser, name, temperature):
    module = DMaxModule(denoiser)
    (answer,) = module.generate("3", decoder=name, max_new_tokens=12, temperature=temperature)
    assert 0 <= min(answer.token_ids) <= max(answer.token_ids) < IDS


def test_the_probe_still_compares_logits(denoiser):
    denoiser.model.config.test = "not yet probed"
    check_behavior(denoiser)
    denoiser.model.config.test = "with other logits"
    denoiser._logit_transform = lambda logits: 2 * logits
    with pytest.raises(UserError, match="its logits are more than its output embedding"):
        check_behavior(denoiser)


def test_the_auxiliary_model_predicts_no_spare_id_either(denoiser):
    settings = AuxiliarySettings(config={**TINY, "vocab_size": ROWS}, span_length=4)
    denoiser.train_auxiliary(settings)
    auxiliary = denoiser.auxiliary
    assert auxiliary.model.get_output_embeddings().weight.shape[0] == ROWS
    possible = auxiliary.logits(torch.randn(5, 32)) != -torch.inf
    assert possible.tolist() == [[token < IDS - 1 for token in range(ROWS)]] * 5  # the mask token is the last


def test_a_tokenizer_may_leave_ids_out():
    tokenizer = AutoTokenizer.from_pretrained("dmaxlit/models/chain-base")
    assert SpecialTokens.of(tokenizer).vocab_size == len(tokenizer) == IDS
    tokenizer.get_vocab = lambda: {"a": 0, "<|mask|>": 60}
    assert SpecialTokens.of(tokenizer).vocab_size == 61
