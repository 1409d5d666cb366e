"""A picture of decoding order: AFP and tau by verdict and third, and the rank of Sudoku's blanks by difficulty."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dmaxlit.evaluation.blank_order import MEASURES
from dmaxlit.evaluation.bootstrap import Estimate
from dmaxlit.evaluation.figure_legend import draw_legend
from dmaxlit.evaluation.order_figures import PARTS, VERDICTS
from dmaxlit.evaluation.order_report import COLUMNS, OrderReport

_GROUPS = (*VERDICTS, *PARTS[1:])
_SPREAD = 0.6  # share of the distance between two groups that the points of one group take


def order_picture(reports: Sequence[OrderReport]) -> Figure:
    """Draw a panel for each figure, and for each measure of difficulty if there are blanks; bars are 95% intervals.

    Args:
        reports: One for each task and decoder; each has a colour.
    """
    with_blanks = any(report.blanks is not None for report in reports)
    panels = len(COLUMNS) + (len(MEASURES) if with_blanks else 0)
    figure = Figure(figsize=(3.4 * panels, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(1, panels, squeeze=False)[0]
    for axes, (name, title) in zip(all_axes, COLUMNS.items(), strict=False):
        _draw_groups(axes, name, title, reports)
    for axes, measure in zip(all_axes[len(COLUMNS) :], MEASURES, strict=False):
        _draw_ranks(axes, measure, reports)
    labels = [_label(report) for report in reports]
    draw_legend(figure, all_axes[0].containers, labels, ncols=min(3, max(1, len(labels))))
    return figure


def _draw_groups(axes: Axes, name: str, title: str, reports: Sequence[OrderReport]) -> None:
    for index, report in enumerate(reports):
        shown = report.shown()
        positions = [_GROUPS.index(group) + _shift(index, len(reports)) for group, _ in shown]
        estimates = [row.figures[name] for _, row in shown]
        _draw_points(axes, positions, estimates, index, _label(report), line="")
    axes.set_xticks(range(len(_GROUPS)), _GROUPS, rotation=35, ha="right")
    axes.set(title=title, xlim=(-0.5, len(_GROUPS) - 0.5))
    if name != "afp":
        axes.set_ylim(-1.05, 1.05)
        axes.axhline(0, color="black", lw=0.7)
    axes.grid(axis="y", alpha=0.3)


def _label(report: OrderReport) -> str:
    return f"{report.task}, {report.decoder}"


def _draw_ranks(axes: Axes, measure: str, reports: Sequence[OrderReport]) -> None:
    for index, report in enumerate(reports):
        rows = [] if report.blanks is None else [row for row in report.blanks.rows if row.measure == measure]
        shift = 0.3 * _shift(index, len(reports))
        positions = [row.value + shift for row in rows]
        _draw_points(axes, positions, [row.rank for row in rows], index, line="-")
    axes.set(title="mean rank of finalisation", xlabel=f"{measure} of a blank")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)


def _draw_points(
    axes: Axes, positions: Sequence[float], estimates: Sequence[Estimate], index: int, label: str = "", line: str = ""
) -> None:
    below = [max(0.0, estimate.mean - estimate.low) for estimate in estimates]
    above = [max(0.0, estimate.high - estimate.mean) for estimate in estimates]
    means = [estimate.mean for estimate in estimates]
    axes.errorbar(
        positions, means, yerr=[below, above], color=f"C{index}", marker="o", ms=4, ls=line, lw=1, capsize=2,
        label=label,
    )  # fmt: skip


def _shift(index: int, number: int) -> float:
    """Return how far the points of one series are moved aside, so that they do not cover those of another."""
    return _SPREAD * ((index + 0.5) / number - 0.5)
