"""The legend of a figure, with labels that users write."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure


def draw_legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str], **options: Any) -> None:
    """Draw a legend below the axes that shows every label as it is.

    matplotlib would read a label with two ``$`` as a formula, which fails if it is none, and leave out one that begins
    with ``_``.

    Args:
        figure: The figure.
        handles: What was drawn.
        labels: Its labels.
        **options: Further options of matplotlib's legend.
    """
    shown = [f" {label}" if label.startswith("_") else label for label in labels]
    legend = figure.legend(handles, shown, loc="outside lower center", fontsize="small", **options)
    for text in legend.get_texts():
        text.set_parse_math(False)
