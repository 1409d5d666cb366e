"""What notebooks show: pages in frames, pictures, and tables, in which no text of a model is markup."""

import base64
import html
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from dmaxlit.errors import UserError, check_at_least
from dmaxlit.viewer.visible import visible


def frame(page: str, height: int = 800) -> str:
    """Return HTML that shows a page in a frame of its own, which can reach neither the notebook nor the network.

    Args:
        page: The page, from :func:`dmaxlit.viewer.page`.
        height: Height in pixels, at least 100.

    Raises:
        UserError: If it is lower.
    """
    check_at_least(100, height=height)
    style = f"width: 100%; height: {height}px; border: 1px solid #8884"
    source = html.escape(page, quote=True)
    return f'<iframe title="Trace" sandbox="allow-scripts" style="{style}" srcdoc="{source}"></iframe>'


def table(rows: Iterable[tuple[str, object]]) -> str:
    """Return an HTML table of names and values, as text."""
    cells = (f"<tr><th scope='row'>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in rows)
    style = "text-align: left; white-space: pre-wrap"
    return f"<table style='{style}'>{''.join(cells)}</table>"


def grid(header: Sequence[str], rows: Iterable[Sequence[str]], num_left: int = 1, caption: str = "") -> str:
    """Return an HTML table with a row of titles, as text.

    Args:
        header: Titles of the columns.
        rows: Their cells.
        num_left: Number of columns, the first ones, that are aligned to the left; the others are to the right.
        caption: What stands above it.
    """

    def line(cells: Sequence[str], name: str) -> str:
        sides = ["left" if column < num_left else "right" for column in range(len(cells))]
        parts = (
            f"<{name} style='text-align: {side}'>{_text(cell)}</{name}>"
            for cell, side in zip(cells, sides, strict=True)
        )
        return f"<tr>{''.join(parts)}</tr>"

    style = "text-align: left; font-weight: bold; white-space: pre-wrap"
    above = f"<caption style='{style}'>{_text(caption)}</caption>" if caption else ""
    return f"<table>{above}{line(header, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"


def picture(png: bytes, text: str) -> str:
    """Return HTML that holds a picture.

    Args:
        png: The picture's file.
        text: What it shows, for screen readers.
    """
    return f'<img alt="{_text(text)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def display(text: str, plain: str) -> None:
    """Show HTML in the notebook that is running.

    Args:
        text: The HTML.
        plain: What a front end without HTML shows.

    Raises:
        UserError: If there is no notebook.
    """
    shell: Any = sys.modules.get("IPython")
    if shell is None or shell.get_ipython() is None:
        raise UserError("show: expected a notebook; elsewhere to_html(FILE) writes the page")
    shell.display.display({"text/html": text, "text/plain": plain}, raw=True)


def _text(value: object) -> str:
    return html.escape(visible(f"{value:.4g}" if isinstance(value, float) else str(value)))
