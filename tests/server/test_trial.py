"""Options of a decoder are tried before it shares a forward with the requests of others."""

from dataclasses import replace

import pytest

from dmaxlit import UserError
from dmaxlit.decoding import DECODERS, ThresholdDecoder
from dmaxlit.engine import DecodeSettings
from dmaxlit.server.trial import ForwardSize, forward_size, try_decoder


@pytest.mark.parametrize("name", list(DECODERS))
def test_every_decoder_passes(module, name):
    try_decoder(DecodeSettings(name).make_engine(module.backbone))


class Odd(ThresholdDecoder):
    def step(self, *args):
        raise RuntimeError("it is odd")


def test_options_that_only_a_step_refuses(module):
    with pytest.raises(UserError, match="top_k: expected less than the vocabulary's 38 tokens, got 1000"):
        try_decoder(DecodeSettings("spd", {"top_k": 1000}).make_engine(module.backbone))
    with pytest.raises(UserError, match="decoder_options: expected some that Odd can use, got 'it is odd'"):
        try_decoder(DecodeSettings(Odd()).make_engine(module.backbone))


class Beyond(ThresholdDecoder):
    def step(self, state, logits, special):
        after = super().step(state, logits, special)
        return replace(after, ids=after.ids + special.vocab_size)


def test_tokens_that_are_none_are_found_before_a_device_reads_them(module):
    with pytest.raises(UserError, match="decoder_options: expected some that Beyond can use, got 'index out of range"):
        try_decoder(DecodeSettings(Beyond()).make_engine(module.backbone))


def test_the_size_of_a_forward(module):
    def size(name, **options):
        return forward_size(DecodeSettings(name, options).make_engine(module.backbone))

    assert size("threshold") == ForwardSize(extra_blocks=0, mixed_tokens=1)
    assert size("psd", depth=5) == ForwardSize(extra_blocks=5, mixed_tokens=1)
    assert size("spd", top_k=3) == ForwardSize(extra_blocks=0, mixed_tokens=4)
    assert size("spd", top_k=3, soft=False) == ForwardSize(extra_blocks=0, mixed_tokens=1)
    with pytest.raises(UserError, match="top_k: expected less than the vocabulary's 38 tokens, got 1000"):
        size("spd", top_k=1000)
