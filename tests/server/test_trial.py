"""Options of a decoder are tried before it shares a forward with the requests of others."""

import pytest

from dmaxlit import UserError
from dmaxlit.decoding import DECODERS
from dmaxlit.engine import DecodeSettings
from dmaxlit.server.trial import try_decoder


@pytest.mark.parametrize("name", list(DECODERS))
def test_every_decoder_passes(module, name):
    try_decoder(DecodeSettings(name).make_engine(module.backbone))


@pytest.mark.parametrize(
    ("decoder", "options", "message"),
    [
        ("spd", {"top_k": 1000}, "top_k: expected less than the vocabulary's 38 tokens, got 1000"),
        ("entropy_gate", {"first": 10**30}, "decoder_options: expected some that EntropyGateDecoder can use"),
    ],
)
def test_options_that_only_a_step_refuses(module, decoder, options, message):
    with pytest.raises(UserError, match=message):
        try_decoder(DecodeSettings(decoder, options).make_engine(module.backbone))
