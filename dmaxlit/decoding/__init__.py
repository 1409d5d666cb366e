"""Decoders, and the engine that runs a model for them."""

from dmaxlit.decoding.base import DECODERS, BlockState, Decoder, SoftTokens
from dmaxlit.decoding.committing import CommittingDecoder
from dmaxlit.decoding.credit import CreditDecoder
from dmaxlit.decoding.draft import Draft, drafts
from dmaxlit.decoding.drawing import Sampler
from dmaxlit.decoding.edit import EditDecoder
from dmaxlit.decoding.engine import BlockDecoder
from dmaxlit.decoding.entropy_bounded import EntropyBoundedDecoder
from dmaxlit.decoding.factor import FactorDecoder
from dmaxlit.decoding.generate_then_edit import GenerateThenEditDecoder
from dmaxlit.decoding.generation import Generation
from dmaxlit.decoding.hierarchical import HierarchicalDecoder
from dmaxlit.decoding.make import make_decoder
from dmaxlit.decoding.one_token import OneTokenDecoder
from dmaxlit.decoding.proposal import Proposal, propose
from dmaxlit.decoding.psd import PSDDecoder
from dmaxlit.decoding.rows import DecodedRow
from dmaxlit.decoding.spd import SPDDecoder
from dmaxlit.decoding.threshold import ThresholdDecoder
from dmaxlit.decoding.trace import ForwardEvent, RowTrace, TokenState, Trace
from dmaxlit.decoding.uniform import UniformDecoder
from dmaxlit.decoding.wino import WinoDecoder

__all__ = [
    "DECODERS",
    "BlockDecoder",
    "BlockState",
    "CommittingDecoder",
    "CreditDecoder",
    "DecodedRow",
    "Decoder",
    "Draft",
    "EditDecoder",
    "EntropyBoundedDecoder",
    "FactorDecoder",
    "ForwardEvent",
    "GenerateThenEditDecoder",
    "Generation",
    "HierarchicalDecoder",
    "OneTokenDecoder",
    "PSDDecoder",
    "Proposal",
    "RowTrace",
    "SPDDecoder",
    "Sampler",
    "SoftTokens",
    "ThresholdDecoder",
    "TokenState",
    "Trace",
    "UniformDecoder",
    "WinoDecoder",
    "drafts",
    "make_decoder",
    "propose",
]
