"""Accuracy-TPF curves, which a notebook shows as a picture with their figures."""

import io

from dmaxlit.evaluation.curve_figure import curve_figure
from dmaxlit.evaluation.curve_point import CurvePoint
from dmaxlit.evaluation.results import RESULT_HEADER, result_cells
from dmaxlit.viewer.notebook import grid, picture


class Curves(dict[str, list[CurvePoint]]):
    """The points of each curve by its label."""

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the picture, and the figures of all points."""
        if not self:
            return grid(RESULT_HEADER, [])
        image = io.BytesIO()
        curve_figure(self).savefig(image, format="png", dpi=110, metadata={"Software": None})
        rows = [
            [label if point.threshold is None else f"{label} {point.threshold:g}", *result_cells(point.result)]
            for label, points in self.items()
            for point in points
        ]
        return picture(image.getvalue(), "Accuracy against tokens per forward") + grid(RESULT_HEADER, rows)
