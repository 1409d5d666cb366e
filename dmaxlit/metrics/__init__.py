"""Metrics of decoding: pure functions, each with a ``torchmetrics.Metric`` that accumulates over batches and ranks."""

from dmaxlit.metrics.accuracy import AnswerAccuracy, answer_accuracy, wilson_interval
from dmaxlit.metrics.aup import AccuracyUnderParallelism, accuracy_under_parallelism
from dmaxlit.metrics.base import RatioMetric
from dmaxlit.metrics.calibration import AcceptedPrecision, accepted_precision
from dmaxlit.metrics.ceiling import TokensPerBlock, answer_blocks, tokens_per_block
from dmaxlit.metrics.meter import Answer, DecodeMeter
from dmaxlit.metrics.order import DecodingOrder, FinalizationParallelism, finalization_parallelism, kendall_tau
from dmaxlit.metrics.rate import FinishedRate, StepLimitRate, finished_rate, step_limit_rate
from dmaxlit.metrics.revision import Revisions, count_revisions
from dmaxlit.metrics.tpf import CONVENTIONS, Convention, TokensPerForward, tokens_per_forward
from dmaxlit.metrics.tpf_interval import TokensPerForwardInterval, tpf_interval
from dmaxlit.metrics.tps import TokensPerSecond, tokens_per_second

__all__ = [
    "CONVENTIONS",
    "AcceptedPrecision",
    "AccuracyUnderParallelism",
    "Answer",
    "AnswerAccuracy",
    "Convention",
    "DecodeMeter",
    "DecodingOrder",
    "FinalizationParallelism",
    "FinishedRate",
    "RatioMetric",
    "Revisions",
    "StepLimitRate",
    "TokensPerBlock",
    "TokensPerForward",
    "TokensPerForwardInterval",
    "TokensPerSecond",
    "accepted_precision",
    "accuracy_under_parallelism",
    "answer_accuracy",
    "answer_blocks",
    "count_revisions",
    "finalization_parallelism",
    "finished_rate",
    "kendall_tau",
    "step_limit_rate",
    "tokens_per_block",
    "tokens_per_forward",
    "tokens_per_second",
    "tpf_interval",
    "wilson_interval",
]
