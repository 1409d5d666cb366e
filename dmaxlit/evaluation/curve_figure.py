"""The accuracy-TPF curve: the cost of parallelism, decoder by decoder."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from dmaxlit.evaluation.results import DecodeResult
from dmaxlit.files import staged_file

_LABEL_WIDTH, _LABEL_STEP = 26.0, 14.0  # width and height reserved for a label, in pixels


@dataclass(frozen=True)
class CurvePoint:
    """One decoder at one threshold.

    Args:
        threshold: Value of the swept option; None for a decoder without one.
        result: The result of decoding with it.
    """

    threshold: float | None
    result: DecodeResult


def curve_figure(curves: Mapping[str, Sequence[CurvePoint]], title: str = "") -> Figure:
    """Draw accuracy against TPF, one line for each decoder, each point labelled with its threshold.

    TPF is on a logarithmic axis: equal steps are equal speed-ups. Bars are 95% intervals. The vertical lines are the
    ceilings at one and at two forwards per block, for the answers of the most accurate point.

    Args:
        curves: Points of each decoder, by its label.
        title: Title of the figure.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for index, (label, points) in enumerate(curves.items()):
        _draw_line(axes, label, points, f"C{index}")
    results = [point.result for points in curves.values() for point in points]
    if results:
        ceiling = max(results, key=lambda result: result.accuracy).tpf_ceiling
        axes.axvline(ceiling, color="black", lw=1, ls="--", label=f"ceiling, 1 forward per block ({ceiling:.1f})")
        axes.axvline(ceiling / 2, color="black", lw=1, ls=":", label=f"2 forwards per block ({ceiling / 2:.1f})")
        tpfs = [result.tpf for result in results] + [1.0, ceiling]
        axes.set_xlim(min(tpfs) / 1.15, max(tpfs) * 1.15)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(LogLocator(base=2))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="tokens per forward (TPF)", ylabel="accuracy %", ylim=(-6, 114), title=title)
    axes.set_yticks(range(0, 101, 20))
    axes.grid(alpha=0.3)
    if results:
        axes.legend(loc="best", fontsize="small", framealpha=0.9)
    _label_points(axes, curves)
    return figure


def _draw_line(axes: Axes, label: str, points: Sequence[CurvePoint], color: str) -> None:
    x = [point.result.tpf for point in points]
    y = [100 * point.result.accuracy for point in points]
    intervals = [point.result.accuracy_interval() for point in points]
    below = [max(0.0, value - 100 * low) for value, (low, _) in zip(y, intervals, strict=True)]
    above = [max(0.0, 100 * high - value) for value, (_, high) in zip(y, intervals, strict=True)]
    axes.errorbar(
        x, y, yerr=[below, above], color=color, marker="o", ms=4, lw=1.5, elinewidth=0.7, capsize=2, label=label
    )


def _label_points(axes: Axes, curves: Mapping[str, Sequence[CurvePoint]]) -> None:
    """Label each point with its threshold, at the nearest height above or below where it covers no other label."""
    axes.figure.canvas.draw()  # fixes the positions of the points on the page
    axes_box, points_per_pixel = axes.get_window_extent(), 72 / axes.figure.dpi
    positions = [(point.result.tpf, 100 * point.result.accuracy) for points in curves.values() for point in points]
    occupied = [tuple(axes.transData.transform(position)) for position in positions]
    for index, points in enumerate(curves.values()):
        for point in points:
            position = (point.result.tpf, 100 * point.result.accuracy)
            if point.threshold is None or not math.isfinite(position[0]):
                continue
            x, y = axes.transData.transform(position)
            sides = (1, -1) if index % 2 == 0 else (-1, 1)
            heights = [side * (1 + step) * _LABEL_STEP for step in range(len(occupied) + 1) for side in sides]
            heights.sort(key=lambda h: not axes_box.y0 < y + h < axes_box.y1)  # inside the axes if possible
            height = next(h for h in heights if _is_free(x, y + h, occupied))
            occupied.append((x, y + height))
            axes.annotate(
                f"{point.threshold:g}",
                position,
                (0, height * points_per_pixel),
                textcoords="offset points",
                color=f"C{index}",
                fontsize=8,
                ha="center",
                va="center",
                in_layout=False,
                bbox={"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
            )


def _is_free(x: float, y: float, occupied: Sequence[Sequence[float]]) -> bool:
    return all(abs(x - u) > _LABEL_WIDTH or abs(y - v) >= _LABEL_STEP for u, v in occupied)


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


def curve_table(curves: Mapping[str, Sequence[CurvePoint]]) -> list[dict[str, object]]:
    """Return the points of all curves as plain values: ``label``, ``threshold`` and the fields of the result."""
    return [
        {"label": label, "threshold": point.threshold, **point.result.to_dict()}
        for label, points in curves.items()
        for point in points
    ]
