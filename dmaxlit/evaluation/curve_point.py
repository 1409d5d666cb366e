"""A point of an accuracy-TPF curve."""

from dataclasses import dataclass

from dmaxlit.evaluation.results import DecodeResult


@dataclass(frozen=True)
class CurvePoint:
    """One decoder at one threshold.

    Args:
        threshold: Value of the swept option; None for a decoder without one.
        result: The result of decoding with it.
    """

    threshold: float | None
    result: DecodeResult
