import torch

from dmaxlit.noise import UniformNoise
from dmaxlit.tokens import SpecialTokens
from tests.conftest import make_batch
from tests.noise.test_contract import converse


def test_random_tokens_stand_where_the_masks_stood(clean):
    masked, random = converse(UniformNoise(level=0.5), clean)
    assert torch.equal(random.ids[~masked.is_masked], clean.ids[~masked.is_masked])
    assert torch.equal(masked.supervised, clean.response)
    assert torch.equal(random.supervised, clean.response)


def test_random_tokens_are_uniform_over_the_vocabulary_without_the_mask():
    clean = make_batch([0] * 64, [512] * 64)
    random = converse(UniformNoise(level=1.0), clean)[1]
    counts = torch.bincount(random.ids.flatten(), minlength=38).float()
    assert counts[clean.special.mask_id] == 0
    expected = 64 * 512 / 37
    others = counts[torch.arange(38) != clean.special.mask_id]
    assert ((others - expected) ** 2 / expected).sum() < 70  # chi-squared, 36 degrees of freedom: 99.9% is 68


def test_random_tokens_are_none_that_the_tokenizer_leaves_out():
    special = SpecialTokens(mask_id=3, eos_id=36, pad_id=35, vocab_size=38, gaps=(range(2), range(4, 20)))
    random = converse(UniformNoise(level=1.0), make_batch([0] * 64, [64] * 64, special=special))[1]
    assert random.ids.unique().tolist() == [2, *range(20, 38)]
