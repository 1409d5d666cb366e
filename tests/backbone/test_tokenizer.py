"""Tokenizers that leave ids out: the length of such a one is not one more than its highest id."""

from functools import partial

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from dmaxlit import UserError
from dmaxlit.backbone import Denoiser
from dmaxlit.backbone.auxiliary import AuxiliarySettings
from dmaxlit.backbone.tokenizer import ensure_special_tokens
from dmaxlit.tokens import SpecialTokens
from tests.conftest import TINY, write_tokenizer


@pytest.fixture
def make_tokenizer(tmp_path):
    return partial(write_tokenizer, tmp_path / "t")


def fresh(tokenizer, **config):
    return Denoiser(config={**TINY, **config}, tokenizer=tokenizer, block_length=4)


def test_a_mask_that_would_share_the_id_of_another_token_is_refused(make_tokenizer):
    folder = make_tokenizer({"<eos>": 0, "a": 1, "b": 2, "c": 4})
    with pytest.raises(UserError, match=r"^mask_token: expected the text of a token .* share id 4 with 'c' in "):
        fresh(folder)
    denoiser = Denoiser(config=TINY, tokenizer=folder, block_length=4, mask_token="b")
    assert (denoiser.special.mask_id, denoiser.tokenizer.get_vocab()["c"]) == (2, 4)


def test_a_fresh_model_has_a_row_for_the_highest_id(make_tokenizer):
    denoiser = fresh(make_tokenizer({"a": 0, "b": 1, "<eos>": 4}))
    assert denoiser.special == SpecialTokens(5, 4, 4, 6, (range(2, 4),))
    assert denoiser.embedding.shape[0] == 6 > len(denoiser.tokenizer)
    with pytest.raises(UserError, match=r"^backbone.config.vocab_size: expected at least the tokenizer's 6, got 5$"):
        fresh(denoiser.tokenizer.name_or_path, vocab_size=5)


def test_the_embedding_grows_to_the_mask_behind_a_gap(tmp_path, make_tokenizer):
    folder = make_tokenizer({"a": 0, "b": 1, "<eos>": 4}, mask_token="b")
    fresh(folder, vocab_size=5).save(tmp_path / "m", {})
    make_tokenizer({"a": 0, "b": 1, "<eos>": 4})
    denoiser = Denoiser(pretrained=str(tmp_path / "m"), tokenizer=folder)
    assert denoiser.special.mask_id == 5
    mean = denoiser.embedding[:5].norm(dim=-1).mean()
    torch.testing.assert_close(denoiser.embedding[5].norm(), mean)
    with pytest.raises(UserError, match="a row for each of the 6 ids, got 5"):
        Denoiser(pretrained=str(tmp_path / "m"), tokenizer=folder, defer=True)


def test_no_id_of_a_gap_is_predicted(make_tokenizer):
    denoiser = fresh(make_tokenizer({"b": 1, "a": 3, "<eos>": 4}), vocab_size=8)
    denoiser.train_auxiliary(AuxiliarySettings(config={**TINY, "vocab_size": 8}, span_length=4))
    for model in (denoiser, denoiser.auxiliary):
        possible = model.logits(torch.randn(5, 32)) != -torch.inf
        assert possible.nonzero()[:, 1].unique().tolist() == [1, 3, 4]


def test_a_mask_is_added_once(make_tokenizer):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(make_tokenizer({"<eos>": 0, "a": 1}))
    assert ensure_special_tokens(tokenizer) == ["<|mask|>"]
    assert ensure_special_tokens(tokenizer) == []
    assert tokenizer.mask_token_id == 2
