"""Options of a decoder are tried before it shares a forward with the requests of others."""

import pytest

from dmaxlit import UserError
from dmaxlit.decoding import DECODERS, ThresholdDecoder
from dmaxlit.engine import DecodeSettings
from dmaxlit.server.trial import try_decoder


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
