"""Benchmarks: the commands behind the figures in the READMEs."""

from dmaxlit.bench.adaptation import AdaptationBench
from dmaxlit.bench.codila import CodilaBench
from dmaxlit.bench.decode_speed import DecodeSpeedBench
from dmaxlit.bench.decoders import DecoderBench
from dmaxlit.bench.frontier import FrontierBench
from dmaxlit.bench.grading import GradingBench
from dmaxlit.bench.loading import LoadingBench
from dmaxlit.bench.scale import ScaleBench
from dmaxlit.bench.self_correction import SelfCorrectionBench
from dmaxlit.bench.tables import TablesBench
from dmaxlit.bench.train_speed import TrainSpeedBench
from dmaxlit.bench.vocabulary import VocabularyBench

__all__ = [
    "AdaptationBench",
    "CodilaBench",
    "DecodeSpeedBench",
    "DecoderBench",
    "FrontierBench",
    "GradingBench",
    "LoadingBench",
    "ScaleBench",
    "SelfCorrectionBench",
    "TablesBench",
    "TrainSpeedBench",
    "VocabularyBench",
]
