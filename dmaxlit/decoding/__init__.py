"""Decoders, and the engine that runs a model for them."""

from dmaxlit.decoding.base import DECODERS, BlockState, Decoder, SoftTokens
from dmaxlit.decoding.engine import BlockDecoder
from dmaxlit.decoding.generation import Generation
from dmaxlit.decoding.make import make_decoder
from dmaxlit.decoding.rows import DecodedRow
from dmaxlit.decoding.spd import SPDDecoder
from dmaxlit.decoding.threshold import ThresholdDecoder
from dmaxlit.decoding.uniform import UniformDecoder

__all__ = [
    "DECODERS",
    "BlockDecoder",
    "BlockState",
    "DecodedRow",
    "Decoder",
    "Generation",
    "SPDDecoder",
    "SoftTokens",
    "ThresholdDecoder",
    "UniformDecoder",
    "make_decoder",
]
