"""Decoders: rules that decide a block's tokens from one forward to the next."""

from dmaxlit.decoding.base import DECODERS, BlockState, Decoder
from dmaxlit.decoding.committing import CommittingDecoder
from dmaxlit.decoding.credit import CreditDecoder
from dmaxlit.decoding.edit import EditDecoder
from dmaxlit.decoding.entropy_bounded import EntropyBoundedDecoder
from dmaxlit.decoding.factor import FactorDecoder
from dmaxlit.decoding.factory import make_decoder
from dmaxlit.decoding.generate_then_edit import GenerateThenEditDecoder
from dmaxlit.decoding.hierarchical import HierarchicalDecoder
from dmaxlit.decoding.one_token import OneTokenDecoder
from dmaxlit.decoding.proposal import Proposal, propose
from dmaxlit.decoding.psd import PSDDecoder
from dmaxlit.decoding.spd import SPDDecoder, promote
from dmaxlit.decoding.threshold import ThresholdDecoder
from dmaxlit.decoding.uniform import UniformDecoder
from dmaxlit.decoding.wino import WinoDecoder
from dmaxlit.tokens import SoftTokens

__all__ = [
    "DECODERS",
    "BlockState",
    "CommittingDecoder",
    "CreditDecoder",
    "Decoder",
    "EditDecoder",
    "EntropyBoundedDecoder",
    "FactorDecoder",
    "GenerateThenEditDecoder",
    "HierarchicalDecoder",
    "OneTokenDecoder",
    "PSDDecoder",
    "Proposal",
    "SPDDecoder",
    "SoftTokens",
    "ThresholdDecoder",
    "UniformDecoder",
    "WinoDecoder",
    "make_decoder",
    "promote",
    "propose",
]
