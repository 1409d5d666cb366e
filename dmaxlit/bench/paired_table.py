"""Tables of models and decoders in which each row is compared with a reference on the same prompts."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any, TypeAlias

import torch

from dmaxlit.bench.summary import Spread, accuracy_interval
from dmaxlit.evaluation.evaluate import DecoderSpec
from dmaxlit.evaluation.paired import paired_difference, paired_ratio
from dmaxlit.metrics import CONVENTIONS, accuracy_under_parallelism, tokens_per_forward

#: A model, ``base`` or a method of the benchmark, and how it is decoded.
Row: TypeAlias = tuple[str, DecoderSpec]
#: What is measured of a row: figures by training seed.
Runs: TypeAlias = Mapping[int, Mapping[str, Any]]
#: Those of all rows, by method and title of the decoder.
Results: TypeAlias = Mapping[tuple[str, str], Runs]

_RESAMPLES = 2000


def summarize_pairs(results: Results, rows: Iterable[Row], reference: Runs) -> list[dict[str, Any]]:
    """Summarise the results of each row over the seeds. Rows without results are left out.

    Args:
        results: What was measured.
        rows: The rows, in order.
        reference: What they are compared with; it has all their seeds.

    Returns:
        For each row: ``method``, ``decoder`` and ``seeds``; the fields of :class:`~dmaxlit.bench.summary.Spread` of
        ``accuracy``, ``tpf``, ``forwards``, ``extra_blocks`` (means per answer) and of each ratio of ``speed``, if it
        was measured; ``interval`` of the accuracy, or None; ``tpf_by`` convention; ``difference`` and ``ratio``, the
        accuracy and TPF compared with the reference by prompt, of which each has its answers of all seeds; and in the
        first row of a curve its ``aup``.
    """
    measured = ((method, spec, results.get((method, spec.title))) for method, spec in rows)
    return _with_aup([_summary(method, spec, runs, reference) for method, spec, runs in measured if runs])


def per_seed(results: Results, **facts: str) -> list[dict[str, Any]]:
    """Return the figures of each row and seed, with some facts, as plain values for ``results.json``."""
    return [
        {
            **facts,
            "method": method,
            "decoder": decoder,
            "number": number,
            "tpf": _tpf(run, "dmaxlit"),
            "accuracy": fmean(run["correct"]),
            "forwards": fmean(run["forwards"]),
            "finished": fmean(run["finished"]),
            "speed": run["speed"],
        }
        for (method, decoder), runs in results.items()
        for number, run in runs.items()
    ]


def _summary(method: str, spec: DecoderSpec, seeds: Runs, reference: Runs) -> dict[str, Any]:
    runs, references = list(seeds.values()), [reference[seed] for seed in seeds]
    accuracy = _means(runs, "correct")
    return {
        "method": method,
        "decoder": spec.title,
        "curve": spec.at(0.0).identity() if spec.swept else spec.identity(),
        "seeds": len(runs),
        "accuracy": vars(accuracy),
        "interval": accuracy_interval(accuracy, len(runs[0]["correct"])),
        "tpf": vars(Spread.of([_tpf(run, "dmaxlit") for run in runs])),
        "tpf_by": {name: Spread.of([_tpf(run, name) for run in runs]).mean for name in CONVENTIONS},
        "forwards": vars(_means(runs, "forwards")),
        "extra_blocks": vars(_means(runs, "extra_blocks")),
        "difference": asdict(paired_difference(_verdicts(references), _verdicts(runs))),
        "ratio": asdict(paired_ratio(_counts(references), _counts(runs), resamples=_RESAMPLES)),
        "speed": {batch: vars(Spread.of([run["speed"][batch] for run in runs])) for batch in runs[0]["speed"]},
    }


def _means(runs: Sequence[Mapping[str, Any]], name: str) -> Spread:
    return Spread.of([sum(run[name]) / len(run[name]) for run in runs])


def _sums(runs: Sequence[Mapping[str, Any]], name: str) -> list[int]:
    """Sum a figure over the seeds, prompt by prompt: seeds share their prompts, and are not further ones."""
    return [sum(values) for values in zip(*(run[name] for run in runs), strict=True)]


def _verdicts(runs: Sequence[Mapping[str, Any]]) -> list[list[bool]]:
    return [run["correct"] for run in runs]


def _counts(runs: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[int]]:
    return _sums(runs, "tokens"), _sums(runs, "forwards")


def _tpf(run: Mapping[str, Any], convention: str) -> float:
    tokens, forwards, finished = (torch.tensor(run[name]) for name in ("tokens", "forwards", "finished"))
    return float(tokens_per_forward(tokens, forwards, finished, convention))


def _with_aup(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add the AUP of each curve to its first row; ``y_max`` is the best accuracy of all rows."""
    best = max((100 * row["accuracy"]["mean"] for row in rows), default=0.0)
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        point = (row["tpf"]["mean"], 100 * row["accuracy"]["mean"])
        curves.setdefault(_curve(row), []).append(point)
    firsts = [_curve(row) not in map(_curve, rows[:index]) for index, row in enumerate(rows)]
    aup = {name: accuracy_under_parallelism(points, best or None) for name, points in curves.items()}
    return [{**row, "aup": aup[_curve(row)] if first else None} for row, first in zip(rows, firsts, strict=True)]


def _curve(row: Mapping[str, Any]) -> str:
    return json.dumps([row["method"], row["curve"]])


def format_pairs(
    summary: Iterable[Mapping[str, Any]], reference: str, timed: str | None = None, without: Sequence[str] = ()
) -> str:
    """Format a summary as a Markdown table.

    Args:
        summary: The rows, at least one.
        reference: Name of what they are compared with.
        timed: Name of what their speed is related to. Default: the same.
        without: Columns to leave out.
    """
    rows = [_cells(row, reference, timed or reference) for row in summary]
    columns = [name for name in rows[0] if name not in without]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row[name] for name in columns)} |" for row in rows)])


def _cells(row: Mapping[str, Any], reference: str, timed: str) -> dict[str, str]:
    difference, ratio, interval = row["difference"], row["ratio"], row["interval"]
    spread = "" if interval is None else f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
    between = f"{100 * difference['difference']:+.1f} [{100 * difference['low']:+.1f}, {100 * difference['high']:+.1f}]"
    speed = {f"tokens/s x {timed}, batch {size}": f"{ratio['mean']:.2f}" for size, ratio in row["speed"].items()}
    return {
        "model / decoder": f"{row['method']} / {row['decoder']}",
        "seeds": str(row["seeds"]),
        "accuracy % [95%]": f"{100 * row['accuracy']['mean']:.1f}{spread}",
        f"to {reference} [95%]": between,
        "p": f"{difference['p_value']:.2g}",
        "TPF": f"{row['tpf']['mean']:.2f} ± {row['tpf']['deviation']:.2f}",
        "published": f"{row['tpf_by']['published']:.2f}",
        "without EOS": f"{row['tpf_by']['without_eos']:.2f}",
        f"x {reference} [95%]": f"{ratio['ratio']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]",
        "forwards": f"{row['forwards']['mean']:.1f}",
        "extra blocks": f"{row['extra_blocks']['mean']:.1f}",
        "AUP": "" if row["aup"] is None else f"{row['aup']:.0f}",
        **speed,
    }


def format_training(models: Sequence[Mapping[str, Any]]) -> str:
    """Format what training the models took as a Markdown table.

    Args:
        models: ``method`` and ``cpu_seconds``, of each seed. Those without a time are left out.

    Returns:
        The table; empty if no model has a time.
    """
    seconds: dict[str, list[float]] = {}
    for model in models:
        if model["cpu_seconds"] is not None:
            seconds.setdefault(model["method"], []).append(model["cpu_seconds"])
    if not seconds:
        return ""
    lines = ["| model | seeds | CPU minutes, from the base on |", "|---|---|---|"]
    for method, values in seconds.items():
        spread = Spread.of(values)
        lines.append(f"| {method} | {spread.seeds} | {spread.mean / 60:.1f} ± {spread.deviation / 60:.1f} |")
    return "\n".join(lines)
