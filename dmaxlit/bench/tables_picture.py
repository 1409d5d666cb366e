"""The picture of the trade-off of accuracy and TPF, over several seeds."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dmaxlit.bench.paired_table import Results, Row, Runs
from dmaxlit.evaluation.curve_figure import curve_figure, save_pictures
from dmaxlit.evaluation.curve_point import CurvePoint
from dmaxlit.evaluation.evaluate import DecoderSpec
from dmaxlit.evaluation.results import DecodeResult


def save_curves(
    path: Path, rows: Iterable[Row], results: Results, summary: Iterable[Mapping[str, Any]], title: str
) -> None:
    """Draw rows as curves, a line for each model and way of decoding, and write .png, .svg and .pdf.

    Points are means over the seeds, bars the intervals of the summary; a row without one has no bar.

    Args:
        path: The files without their suffix.
        rows: The rows.
        results: What was measured of them, with ``blocks``.
        summary: Their summary.
        title: Title of the picture.
    """
    entries = {(entry["method"], entry["decoder"]): entry for entry in summary}
    curves: dict[str, list[CurvePoint]] = {}
    for method, spec in rows:
        key = (method, spec.title)
        threshold = None if spec.swept is None else spec.options[spec.swept]
        name = spec.title if threshold is None else spec.title.removesuffix(f" {threshold:g}")
        result = _pooled(spec, results[key], entries[key])
        interval = entries[key]["interval"] or (result.accuracy, result.accuracy)
        point = CurvePoint(threshold, result, tuple(interval))
        curves.setdefault(f"{method}, {name}", []).append(point)
    save_pictures(curve_figure(curves, title), path)


def _pooled(spec: DecoderSpec, runs: Runs, entry: Mapping[str, Any]) -> DecodeResult:
    """Return the result of all seeds together. Its time was not measured."""

    def total(name: str) -> int:
        return sum(sum(run[name]) for run in runs.values())

    answers = sum(len(run["tokens"]) for run in runs.values())
    return DecodeResult(
        decoder=spec.name,
        options=dict(spec.options),
        num_examples=answers,
        accuracy=total("correct") / answers,
        tpf=entry["tpf"]["mean"],
        tpf_published=entry["tpf_by"]["published"],
        tpf_ceiling=total("tokens") / total("blocks"),
        forwards_per_answer=total("forwards") / answers,
        tokens_per_second=math.nan,
        finished=total("finished") / answers,
        blocks_at_step_limit=total("hit_step_limit"),
        blocks=total("blocks"),
        seconds=math.nan,
    )
