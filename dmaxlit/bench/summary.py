"""From the runs of several seeds to one table: means, spreads and intervals."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dmaxlit.bench.rows import Row
from dmaxlit.metrics import wilson_interval

__all__ = ["Spread", "format_summary", "summarize"]

# 97.5% quantiles of Student's t for 1 ... 9 degrees of freedom.
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
_ENOUGH = 3  # seeds for an interval over seeds; two give one that is good for nothing
_FIGURES = ("accuracy", "tpf", "tpf_ceiling", "tpf_ceiling_two", "forwards_per_answer", "tokens_per_second", "finished")


@dataclass(frozen=True)
class Spread:
    """A figure over the seeds.

    Args:
        mean: Mean.
        deviation: Standard deviation between seeds (0 for one seed).
        low: Smallest.
        high: Largest.
        seeds: Number of seeds.
    """

    mean: float
    deviation: float
    low: float
    high: float
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The spread of a few values."""
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        return cls(statistics.fmean(values), deviation, min(values), max(values), len(values))

    @property
    def half_width(self) -> float:
        """Half width of the 95% interval of the mean (Student's t over seeds); nan for one seed."""
        if self.seeds < 2:
            return math.nan
        return _STUDENT[min(self.seeds - 2, len(_STUDENT) - 1)] * self.deviation / math.sqrt(self.seeds)


def summarize(runs: Iterable[Mapping[str, Any]], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One entry a row of the table, in the table's order.

    Args:
        runs: Results as the benchmark stores them, with ``row`` (the row's key) and the figures of a decode.
        rows: The table's rows.

    Returns:
        Entries with ``row``; for each figure the fields of :class:`Spread`; and ``interval``, the 95% interval of the
        accuracy: over seeds (Student's t) if there are three or more, else over prompts (Wilson).
    """
    by_row: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        by_row.setdefault(run["row"], []).append(run)
    summary = []
    for row in rows:
        found = by_row.get(row.key, [])
        if found:
            figures = {name: Spread.of([run[name] for run in found]) for name in _FIGURES}
            told = {name: vars(spread) for name, spread in figures.items()}
            interval = _interval(figures["accuracy"], sum(run["num_examples"] for run in found))
            summary.append(
                {"row": row.key, "decoder": row.decoder, "options": row.options, "interval": interval, **told}
            )
    return summary


def _interval(accuracy: Spread, prompts: int) -> tuple[float, float]:
    if accuracy.seeds < _ENOUGH:
        return wilson_interval(round(accuracy.mean * prompts), prompts)
    return max(accuracy.mean - accuracy.half_width, 0.0), min(accuracy.mean + accuracy.half_width, 1.0)


def format_summary(summary: Sequence[Mapping[str, Any]]) -> str:
    """A markdown table: accuracy in percent with its interval, and TPF as mean +- standard deviation between seeds."""
    header = "| model, decoder | seeds | accuracy % | 95% | TPF | ceiling 1 / 2 | forwards per answer | tokens/s |"
    lines = [header, "|---|---|---|---|---|---|---|---|"]
    for entry in summary:
        accuracy, tpf = entry["accuracy"], entry["tpf"]
        lines.append(
            f"| {entry['row']} | {accuracy['seeds']} "
            f"| {100 * accuracy['mean']:.1f} ± {100 * accuracy['deviation']:.1f} "
            f"| {100 * entry['interval'][0]:.1f} to {100 * entry['interval'][1]:.1f} "
            f"| {tpf['mean']:.2f} ± {tpf['deviation']:.2f} "
            f"| {entry['tpf_ceiling']['mean']:.1f} / {entry['tpf_ceiling_two']['mean']:.1f} "
            f"| {entry['forwards_per_answer']['mean']:.1f} | {entry['tokens_per_second']['mean']:.0f} |"
        )
    return "\n".join(lines)
