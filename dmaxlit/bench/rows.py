"""The rows of the self-correction table: which model is decoded how."""

from dataclasses import dataclass, field
from typing import Any

__all__ = ["METHODS", "PRETRAIN", "ROWS", "Row"]

#: The recipes that make a base, each going on from the one before, and what each adds to the base's seed.
PRETRAIN: dict[str, int] = {"pretrain.yaml": 0, "pretrain_refine.yaml": 100}


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        method: Which model: ``base`` or one of :data:`METHODS`.
        label: How the line names its decoder.
        decoder: Registered name of the decoder.
        options: The decoder's options.
    """

    method: str
    label: str
    decoder: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Unique name of the row."""
        return f"{self.method} / {self.label}"


#: Trained models, each with the recipe (a file of ``configs/``) that makes it from the base.
METHODS: dict[str, str] = {"control": "control.yaml", "uniform": "uniform.yaml", "on_policy": "quickstart.yaml"}


def _threshold(method: str, *thresholds: float) -> list[Row]:
    return [Row(method, f"threshold {t:g}", "threshold", {"threshold": t}) for t in thresholds]


def _spd(method: str, *taus: float) -> list[Row]:
    return [Row(method, f"SPD {tau:g}", "spd", {"tau_dec": tau}) for tau in taus]


ROWS: tuple[Row, ...] = (
    Row("base", "one token per forward", "threshold", {"threshold": 1.0, "max_tokens": 1}),
    *_threshold("base", 0.95, 0.5, 0.0),
    *_spd("base", 0.5, 0.0),
    *_threshold("control", 0.95, 0.5),
    *_spd("control", 0.5, 0.0),
    Row("uniform", "uniform", "uniform"),
    *_spd("uniform", 0.5, 0.0),
    *_threshold("on_policy", 0.95),
    Row("on_policy", "hard tokens 0.5", "spd", {"tau_dec": 0.5, "soft": False}),
    Row("on_policy", "hard tokens 0", "spd", {"tau_dec": 0.0, "soft": False}),
    Row("on_policy", "not contiguous 0.5", "spd", {"tau_dec": 0.5, "contiguous": False}),
    *_spd("on_policy", 0.95, 0.5, 0.0),
    Row("on_policy", "SPD 0.5, consistency only", "spd", {"tau_dec": 0.5, "stop_on_confidence": False}),
    Row("on_policy", "SPD 0.5, confidence only", "spd", {"tau_dec": 0.5, "stop_on_consistency": False}),
)
