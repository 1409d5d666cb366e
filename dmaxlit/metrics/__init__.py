"""Metrics of decoding, each a ``torchmetrics.Metric`` whose states are summed over ranks."""

from dmaxlit.metrics.accuracy import AnswerAccuracy, wilson_interval
from dmaxlit.metrics.base import RatioMetric
from dmaxlit.metrics.ceiling import TokensPerBlock, answer_blocks
from dmaxlit.metrics.meter import Answer, DecodeMeter
from dmaxlit.metrics.rate import CappedRate, FinishedRate
from dmaxlit.metrics.tpf import CONVENTIONS, Convention, TokensPerForward, tokens_per_forward
from dmaxlit.metrics.tps import TokensPerSecond, tokens_per_second

__all__ = [
    "CONVENTIONS",
    "Answer",
    "AnswerAccuracy",
    "CappedRate",
    "Convention",
    "DecodeMeter",
    "FinishedRate",
    "RatioMetric",
    "TokensPerBlock",
    "TokensPerForward",
    "TokensPerSecond",
    "answer_blocks",
    "tokens_per_forward",
    "tokens_per_second",
    "wilson_interval",
]
