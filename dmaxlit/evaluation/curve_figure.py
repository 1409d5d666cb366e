"""The accuracy-TPF curve: the cost of parallelism, decoder by decoder."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

from dmaxlit.evaluation.curve_labels import label_points
from dmaxlit.evaluation.curve_point import CurvePoint
from dmaxlit.evaluation.figure_legend import draw_legend
from dmaxlit.evaluation.results import DecodeResult
from dmaxlit.files import staged_file

#: Kinds of pictures.
PICTURES = (".png", ".svg", ".pdf")

_MARKERS, _STYLES = "osD^vPX", ("-", "--", "-.", ":")
_STRETCH_FROM = 90.0  # percent: above it accuracies are hard to tell apart on a linear axis
_STRETCH = 6.0  # times as much room above as below


def curve_figure(curves: Mapping[str, Sequence[CurvePoint]], title: str = "") -> Figure:
    """Draw accuracy against TPF, one line for each decoder, each point labelled with its threshold.

    TPF is on a logarithmic axis: equal steps are equal speed-ups. Both axes fit the data; where accuracies from 90% on
    share the axis with much lower ones, the part above 90% is stretched, which its label says. Bars are 95% intervals.
    Lines that cover each other differ in width, dashes and markers, the first the widest. The vertical lines are the
    ceilings at one and at two forwards per block, for the answers of the most accurate point.

    Args:
        curves: Points of each decoder, by its label.
        title: Title of the figure.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    lines: list[Any] = [
        _draw_line(axes, label, points, index, len(curves)) for index, (label, points) in enumerate(curves.items())
    ]
    drawn = [point for points in curves.values() for point in points]
    results = [point.result for point in drawn]
    axes.set(xlabel="tokens per forward (TPF)", ylabel="accuracy %")
    axes.set_title(title, parse_math=False)
    axes.set_xscale("log", base=2)
    if results:
        _fit_accuracy(axes, drawn)
        ceilings = _fit_tpf(axes, results)
        draw_legend(figure, [*lines, *ceilings.values()], [*curves, *ceilings], ncols=2, frameon=False)
    axes.grid(alpha=0.3)
    label_points(axes, curves)
    return figure


def _draw_line(axes: Axes, label: str, points: Sequence[CurvePoint], index: int, lines: int) -> ErrorbarContainer:
    x = [point.result.tpf for point in points]
    y = [100 * point.result.accuracy for point in points]
    intervals = [point.accuracy_interval for point in points]
    below = [max(0.0, value - 100 * low) for value, (low, _) in zip(y, intervals, strict=True)]
    above = [max(0.0, 100 * high - value) for value, (_, high) in zip(y, intervals, strict=True)]
    behind = lines - 1 - index  # lines that are drawn over this one
    return axes.errorbar(
        x,
        y,
        yerr=[below, above],
        color=f"C{index}",
        marker=_MARKERS[index % len(_MARKERS)],
        ls=_STYLES[index % len(_STYLES)],
        ms=4 + min(2 * behind, 8),
        lw=1.5 + min(behind, 4),
        mfc="white" if behind else None,
        elinewidth=0.7,
        capsize=2,
        label=label,
    )


def _fit_accuracy(axes: Axes, points: Sequence[CurvePoint]) -> None:
    """Fit the vertical axis to accuracies and their intervals, and stretch what is above 90% if it would be crowded."""
    bounds = [100 * bound for point in points for bound in point.accuracy_interval]
    low, high = min(bounds), max(bounds)
    is_stretched = low < _STRETCH_FROM - 10 and any(100 * point.result.accuracy > _STRETCH_FROM for point in points)
    if is_stretched:
        axes.set_yscale("function", functions=(_stretched, _compressed))
        axes.set_ylabel(f"accuracy %, stretched above {_STRETCH_FROM:g}")
        axes.axhline(_STRETCH_FROM, color="black", lw=0.5, alpha=0.5)
        step = 10 if low > 40 else 20
        coarse = [tick for tick in range(0, int(_STRETCH_FROM), step) if tick >= low]
        axes.set_yticks([*coarse, *range(int(_STRETCH_FROM), 101, 2)])
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_ylim(max(low - 6, -6), high + 1)
        return
    margin = max(0.08 * (high - low), 0.5)
    axes.set_ylim(low - margin, high + margin)


def _stretched(accuracy: NDArray[np.float64]) -> NDArray[np.float64]:
    return accuracy + (_STRETCH - 1) * np.maximum(accuracy - _STRETCH_FROM, 0)


def _compressed(height: NDArray[np.float64]) -> NDArray[np.float64]:
    return height - (1 - 1 / _STRETCH) * np.maximum(height - _STRETCH_FROM, 0)


def _fit_tpf(axes: Axes, results: Sequence[DecodeResult]) -> dict[str, Line2D]:
    """Fit the horizontal axis to the TPF, and draw the ceilings that are not far from them; return these by label."""
    tpfs = [result.tpf for result in results if math.isfinite(result.tpf) and result.tpf > 0] or [1.0]
    ceiling = max(results, key=lambda result: result.accuracy).tpf_ceiling
    low, high = min(tpfs), max(tpfs)
    if ceiling <= 2 * high:
        high = max(high, ceiling)
    room = max((high / low) ** 0.06, 1.05)
    ceilings = {}
    for value, style, name in ((ceiling, "--", "1 forward"), (ceiling / 2, ":", "2 forwards")):
        beyond = "" if low / room <= value <= high * room else ", beyond the axis"
        text = f"ceiling, {name} per block ({value:.1f}{beyond})"
        ceilings[text] = axes.axvline(value, color="black", lw=1, ls=style, label=text)
    axes.set_xlim(low / room, high * room)
    axes.xaxis.set_major_locator(LogLocator(base=2) if high / low > 8 else MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    return ceilings


def save_picture(figure: Figure, path: Path) -> None:
    """Write a figure as the kind of picture that the file's name ends in; text in .svg and .pdf can be selected.

    Args:
        figure: The figure.
        path: A file that ends in .png, .svg or .pdf.

    Raises:
        OSError: If it cannot be written.
    """
    kind = path.suffix.lower().removeprefix(".")
    no_date: dict[str, dict[str, str | None]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    metadata = no_date.get(kind, {"Software": None})
    with (
        rc_context({"svg.fonttype": "none", "svg.hashsalt": "dmaxlit", "pdf.fonttype": 42}),
        staged_file(path) as staging,
    ):
        figure.savefig(staging, format=kind, dpi=200, metadata=metadata)


def save_pictures(figure: Figure, path: Path) -> None:
    """Write a figure as .png, .svg and .pdf.

    Args:
        figure: The figure.
        path: The files without their suffix.

    Raises:
        OSError: If one cannot be written.
    """
    for suffix in PICTURES:
        save_picture(figure, path.with_name(path.name + suffix))


def curve_table(curves: Mapping[str, Sequence[CurvePoint]]) -> list[dict[str, object]]:
    """Return all points as plain values: ``label``, ``threshold``, ``title`` and the fields of the result."""
    return [
        {
            "label": label,
            "threshold": point.threshold,
            "title": label if point.threshold is None else f"{label} {point.threshold:g}",
            **point.result.to_dict(),
        }
        for label, points in curves.items()
        for point in points
    ]
