"""Decoders: rules that decide a block's tokens from one forward to the next."""

import warnings
from importlib import import_module
from typing import Any

from dmaxlit.decoding.base import DECODERS, BlockState, Decoder
from dmaxlit.decoding.codila import CodilaDecoder
from dmaxlit.decoding.codila_verify import CodilaVerifyDecoder
from dmaxlit.decoding.committing import CommittingDecoder
from dmaxlit.decoding.conversion import to_diffusers, to_sglang
from dmaxlit.decoding.credit import CreditDecoder
from dmaxlit.decoding.edit import EditDecoder
from dmaxlit.decoding.entropy_bounded import EntropyBoundedDecoder
from dmaxlit.decoding.entropy_gate import EntropyGateDecoder
from dmaxlit.decoding.factor import FactorDecoder
from dmaxlit.decoding.factory import make_decoder
from dmaxlit.decoding.frechet import FrechetDecoder
from dmaxlit.decoding.generate_then_edit import GenerateThenEditDecoder
from dmaxlit.decoding.hierarchical import HierarchicalDecoder
from dmaxlit.decoding.joint import JointDecoder, JointModel
from dmaxlit.decoding.less import LessDecoder
from dmaxlit.decoding.one_token import OneTokenDecoder
from dmaxlit.decoding.proposal import Proposal, propose
from dmaxlit.decoding.psd import PSDDecoder
from dmaxlit.decoding.spd import SPDDecoder, promote
from dmaxlit.decoding.t2m import T2MDecoder
from dmaxlit.decoding.threshold import ThresholdDecoder
from dmaxlit.decoding.uniform import UniformDecoder
from dmaxlit.decoding.wino import WinoDecoder
from dmaxlit.tokens import SoftTokens

__all__ = [
    "DECODERS",
    "BlockState",
    "CodilaDecoder",
    "CodilaVerifyDecoder",
    "CommittingDecoder",
    "CreditDecoder",
    "Decoder",
    "EditDecoder",
    "EntropyBoundedDecoder",
    "EntropyGateDecoder",
    "FactorDecoder",
    "FrechetDecoder",
    "GenerateThenEditDecoder",
    "HierarchicalDecoder",
    "JointDecoder",
    "JointModel",
    "LessDecoder",
    "OneTokenDecoder",
    "PSDDecoder",
    "Proposal",
    "SPDDecoder",
    "SoftTokens",
    "T2MDecoder",
    "ThresholdDecoder",
    "UniformDecoder",
    "WinoDecoder",
    "make_decoder",
    "promote",
    "propose",
    "to_diffusers",
    "to_sglang",
]

# In 0.1 the engine was part of this package; its names stay importable from here for one release.
_MOVED = {
    "BlockDecoder": "BlockDecoder",
    "DecodedRow": "DecodedSequence",
    "Draft": "Draft",
    "ForwardEvent": "ForwardEvent",
    "Generation": "Generation",
    "RowTrace": "RowTrace",
    "Sampler": "Sampler",
    "TokenState": "TokenState",
    "Trace": "Trace",
    "drafts": "drafts",
}


def __getattr__(name: str) -> Any:
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        f"dmaxlit.decoding.{name} is now dmaxlit.engine.{_MOVED[name]}", category=DeprecationWarning, stacklevel=2
    )
    return getattr(import_module("dmaxlit.engine"), _MOVED[name])
