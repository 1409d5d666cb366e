"""Lightning callbacks, imported as ``dmaxlit.callbacks``: decoding while training, the table, views, throughput."""

from dmaxlit.callbacks.comparison_report import ComparisonReport
from dmaxlit.callbacks.prediction_writer import PredictionWriter
from dmaxlit.callbacks.spd_validation import SPDValidation
from dmaxlit.callbacks.throughput import TrainingThroughput
from dmaxlit.callbacks.view_diagnostics import ViewDiagnostics
from dmaxlit.evaluation import DecoderSpec

__all__ = [
    "ComparisonReport",
    "DecoderSpec",
    "PredictionWriter",
    "SPDValidation",
    "TrainingThroughput",
    "ViewDiagnostics",
]
