"""A point of an accuracy-TPF curve."""

from dataclasses import dataclass

from dmaxlit.evaluation.results import DecodeResult


@dataclass(frozen=True)
class CurvePoint:
    """One decoder at one threshold.

    Args:
        threshold: Value of the swept option; None for a decoder without one.
        result: The result of decoding with it.
        interval: 95% interval of the accuracy, such as one over training seeds. Default: the result's, over prompts.
    """

    threshold: float | None
    result: DecodeResult
    interval: tuple[float, float] | None = None

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """95% interval (low, high) of the accuracy."""
        return self.interval or self.result.accuracy_interval()
