"""Metrics of decoding, each a ``torchmetrics.Metric`` whose states are summed over ranks."""

from dmaxlit.metrics.accuracy import AnswerAccuracy, wilson_interval
from dmaxlit.metrics.aup import AccuracyUnderParallelism, accuracy_under_parallelism
from dmaxlit.metrics.base import RatioMetric
from dmaxlit.metrics.calibration import AcceptedPrecision
from dmaxlit.metrics.ceiling import TokensPerBlock, answer_blocks
from dmaxlit.metrics.meter import Answer, DecodeMeter
from dmaxlit.metrics.order import DecodingOrder, FinalizationParallelism, finalization_parallelism, kendall_tau
from dmaxlit.metrics.rate import CappedRate, FinishedRate
from dmaxlit.metrics.revision import Revisions, count_revisions
from dmaxlit.metrics.tpf import CONVENTIONS, Convention, TokensPerForward, tokens_per_forward
from dmaxlit.metrics.tps import TokensPerSecond, tokens_per_second

__all__ = [
    "CONVENTIONS",
    "AcceptedPrecision",
    "AccuracyUnderParallelism",
    "Answer",
    "AnswerAccuracy",
    "CappedRate",
    "Convention",
    "DecodeMeter",
    "DecodingOrder",
    "FinalizationParallelism",
    "FinishedRate",
    "RatioMetric",
    "Revisions",
    "TokensPerBlock",
    "TokensPerForward",
    "TokensPerSecond",
    "accuracy_under_parallelism",
    "answer_blocks",
    "count_revisions",
    "finalization_parallelism",
    "kendall_tau",
    "tokens_per_forward",
    "tokens_per_second",
    "wilson_interval",
]
