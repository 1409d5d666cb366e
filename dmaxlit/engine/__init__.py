"""The engine decodes prompts block by block with a model and a decoder."""

from dmaxlit.engine.block_decoder import BlockDecoder
from dmaxlit.engine.events import ForwardEvent
from dmaxlit.engine.generation import Generation
from dmaxlit.engine.mixin import GenerationMixin
from dmaxlit.engine.prompts import Prompts
from dmaxlit.engine.request import DecodedSequence
from dmaxlit.engine.sampler import Sampler
from dmaxlit.engine.settings import DecodeSettings
from dmaxlit.engine.stream import Draft, drafts
from dmaxlit.engine.trace import RowTrace, TokenState, Trace

__all__ = [
    "BlockDecoder",
    "DecodeSettings",
    "DecodedSequence",
    "Draft",
    "ForwardEvent",
    "Generation",
    "GenerationMixin",
    "Prompts",
    "RowTrace",
    "Sampler",
    "TokenState",
    "Trace",
    "drafts",
]
