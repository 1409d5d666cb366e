"""Tables over several seeds: means, spreads and confidence intervals."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dmaxlit.bench.table_rows import TableRow
from dmaxlit.metrics import wilson_interval

# 97.5% quantiles of Student's t for 1 ... 9 degrees of freedom.
_T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
_MIN_SEEDS = 3  # for an interval over seeds; that of two seeds is too wide to be of use
_FIGURES = ("accuracy", "tpf", "tpf_ceiling", "tpf_ceiling_two", "forwards_per_answer", "tokens_per_second", "finished")


@dataclass(frozen=True)
class Spread:
    """Spread of one figure over the seeds.

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
        """Return the spread of a few values."""
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        return cls(statistics.fmean(values), deviation, min(values), max(values), len(values))

    @property
    def half_width(self) -> float:
        """Half width of the 95% interval of the mean (Student's t over seeds); nan for one seed."""
        if self.seeds < 2:
            return math.nan
        return _T_QUANTILES[min(self.seeds - 2, len(_T_QUANTILES) - 1)] * self.deviation / math.sqrt(self.seeds)


def summarize(runs: Iterable[Mapping[str, Any]], rows: Sequence[TableRow]) -> list[dict[str, Any]]:
    """Summarise the results of each row over the seeds.

    Args:
        runs: Results of :func:`~dmaxlit.bench.table_rows.decode_rows`, of all models.
        rows: The rows of the table, in order. Rows without results are left out.

    Returns:
        For each row: ``row``, ``decoder`` and ``options``; the fields of :class:`Spread` for each figure; and
        ``interval``, the 95% interval of the accuracy or None; see :func:`accuracy_interval`.
    """
    by_row: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        by_row.setdefault(run["row"], []).append(run)
    summary = []
    for row in rows:
        results = by_row.get(row.key, [])
        if results:
            spreads = {name: Spread.of([result[name] for result in results]) for name in _FIGURES}
            entry = {"row": row.key, "decoder": row.decoder, "options": row.options}
            interval = accuracy_interval(spreads["accuracy"], results[0]["num_examples"])
            figures = {name: vars(spread) for name, spread in spreads.items()}
            summary.append({**entry, "interval": interval, **figures})
    return summary


def accuracy_interval(accuracy: Spread, prompts: int) -> tuple[float, float] | None:
    """Return the 95% interval of an accuracy.

    It is over seeds (Student's t) if there are three or more that differ. If there is one, or all are equally right, it
    is over the prompts of one (Wilson). Two seeds that differ have none: over prompts it would leave out what lies
    between seeds, and over seeds it would be too wide to be of use.

    Args:
        accuracy: The accuracies of the seeds.
        prompts: Prompts of one seed.
    """
    if accuracy.low == accuracy.high:
        return wilson_interval(round(accuracy.mean * prompts), prompts)
    if accuracy.seeds < _MIN_SEEDS:
        return None
    return max(accuracy.mean - accuracy.half_width, 0.0), min(accuracy.mean + accuracy.half_width, 1.0)


def format_summary(summary: Sequence[Mapping[str, Any]]) -> str:
    """Format a summary as a Markdown table, with means ± standard deviations between seeds."""
    header = "| model, decoder | seeds | accuracy % | 95% | TPF | ceiling 1 / 2 | forwards per answer | tokens/s |"
    lines = [header, "|---|---|---|---|---|---|---|---|"]
    for entry in summary:
        accuracy, tpf, interval = entry["accuracy"], entry["tpf"], entry["interval"]
        lines.append(
            f"| {entry['row']} | {accuracy['seeds']} "
            f"| {100 * accuracy['mean']:.1f} ± {100 * accuracy['deviation']:.1f} "
            f"| {'' if interval is None else f'{100 * interval[0]:.1f} to {100 * interval[1]:.1f}'} "
            f"| {tpf['mean']:.2f} ± {tpf['deviation']:.2f} "
            f"| {entry['tpf_ceiling']['mean']:.1f} / {entry['tpf_ceiling_two']['mean']:.1f} "
            f"| {entry['forwards_per_answer']['mean']:.1f} | {entry['tokens_per_second']['mean']:.0f} |"
        )
    return "\n".join(lines)
