"""Labels of the points of an accuracy-TPF curve, none of which covers another."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from dmaxlit.evaluation.curve_point import CurvePoint

_CHARACTER, _STEP = 6.5, 14.0  # width of a character and height of a label, in pixels
_TOGETHER = 18.0  # pixels: points of a curve that are closer share a label


@dataclass(frozen=True)
class _Box:
    """Where something is on the page, in pixels: its centre and its width."""

    x: float
    y: float
    width: float

    def overlaps(self, other: "_Box") -> bool:
        return abs(self.x - other.x) < (self.width + other.width) / 2 and abs(self.y - other.y) < _STEP


def label_points(axes: Axes, curves: Mapping[str, Sequence[CurvePoint]]) -> None:
    """Label each point with its threshold, at the nearest height above or below where it covers no other label.

    Neighbours on a curve that lie on top of each other share a label, ``0-0.5`` for thresholds from 0 to 0.5.

    Args:
        axes: The axes, with limits and scales set and the curves drawn in the colours C0, C1, ...
        curves: The points of each curve.
    """
    axes.figure.canvas.draw()  # fixes the positions of the points on the page
    page = axes.get_window_extent()
    groups = [(index, *group) for index, points in enumerate(curves.values()) for group in _groups(axes, points)]
    centres = [axes.transData.transform(position) for _, _, position in groups]
    occupied = [_Box(x, y, 8) for x, y in centres]
    for (index, thresholds, position), (x, y) in zip(groups, centres, strict=True):
        low, high = min(thresholds), max(thresholds)
        text = f"{low:g}" if low == high else f"{low:g}-{high:g}"
        width = _CHARACTER * len(text) + 4
        sides = (1, -1) if index % 2 == 0 else (-1, 1)
        heights = [side * (1 + step) * _STEP for step in range(len(occupied) + 1) for side in sides]
        heights.sort(key=lambda h: not page.y0 + _STEP / 2 < y + h < page.y1 - _STEP / 2)  # inside if possible
        boxes = (_Box(x, y + height, width) for height in heights)
        box = next(box for box in boxes if not any(map(box.overlaps, occupied)))
        occupied.append(box)
        axes.annotate(
            text,
            position,
            (0, (box.y - y) * 72 / axes.figure.dpi),
            textcoords="offset points",
            color=f"C{index}",
            fontsize=8,
            ha="center",
            va="center",
            in_layout=False,
            bbox={"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
        )


def _groups(axes: Axes, points: Sequence[CurvePoint]) -> Iterator[tuple[list[float], tuple[float, float]]]:
    """Yield the thresholds of neighbours that lie on top of each other, and the position of the first of them."""
    thresholds: list[float] = []
    first = (0.0, 0.0)
    for point in points:
        position = (point.result.tpf, 100 * point.result.accuracy)
        if point.threshold is None or not all(map(math.isfinite, position)):
            continue
        if thresholds and math.dist(axes.transData.transform(first), axes.transData.transform(position)) > _TOGETHER:
            yield thresholds, first
            thresholds = []
        first = first if thresholds else position
        thresholds.append(point.threshold)
    if thresholds:
        yield thresholds, first
