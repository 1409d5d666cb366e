"""Lightning callbacks, imported as ``dmaxlit.callbacks``."""

from dmaxlit.callbacks.block_warmup import BlockWarmup
from dmaxlit.callbacks.comparison_report import ComparisonReport
from dmaxlit.callbacks.finite_guard import FiniteGuard
from dmaxlit.callbacks.hyperparameter_log import HyperparameterLog
from dmaxlit.callbacks.next_token_training import NextTokenTraining
from dmaxlit.callbacks.prediction_writer import PredictionWriter
from dmaxlit.callbacks.rank_guard import RankGuard
from dmaxlit.callbacks.run_checkpoint import RunCheckpoint
from dmaxlit.callbacks.run_progress_bar import RunProgressBar
from dmaxlit.callbacks.spd_validation import SPDValidation
from dmaxlit.callbacks.throughput import TrainingThroughput
from dmaxlit.callbacks.view_diagnostics import ViewDiagnostics
from dmaxlit.evaluation.evaluate import DecoderSpec

__all__ = [
    "BlockWarmup",
    "ComparisonReport",
    "DecoderSpec",
    "FiniteGuard",
    "HyperparameterLog",
    "NextTokenTraining",
    "PredictionWriter",
    "RankGuard",
    "RunCheckpoint",
    "RunProgressBar",
    "SPDValidation",
    "TrainingThroughput",
    "ViewDiagnostics",
]
